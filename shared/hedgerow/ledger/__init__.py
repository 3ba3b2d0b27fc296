"""What training takes in memory, computed and not measured: what for, layer by layer, and at most in each phase."""

from hedgerow.ledger.experiment import plan_of
from hedgerow.ledger.operations import weight_operations
from hedgerow.ledger.plan import Plan
from hedgerow.ledger.sums import Ledger, ledger, ledger_of
from hedgerow.ledger.trace import Call, Trace, trace
from hedgerow.ledger.traced import Traced, traced

__all__ = [
    "Call",
    "Ledger",
    "Plan",
    "Trace",
    "Traced",
    "ledger",
    "ledger_of",
    "plan_of",
    "trace",
    "traced",
    "weight_operations",
]
