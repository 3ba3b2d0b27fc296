"""What training takes in memory, computed and not measured: what for, layer by layer, and at most in each phase."""

from hedgerow.ledger.experiment import plan_of
from hedgerow.ledger.plan import Plan
from hedgerow.ledger.sums import Ledger, ledger
from hedgerow.ledger.trace import Call, Trace, trace

__all__ = ["Call", "Ledger", "Plan", "Trace", "ledger", "plan_of", "trace"]
