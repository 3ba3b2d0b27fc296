"""Everything that hedgerow raises on purpose.

HedgerowError
├── ConfigError      a key or value of an experiment, a recipe or a command-line option
│   └── BudgetError  less memory than the least that training takes
├── DataError        a data set that is missing, corrupt, or cannot be divided as asked
├── ModelError       a model that cannot be built, or does not fit the data
├── PruningError     a mask that cannot be made (density too low, no path through the network)
├── PayloadError     bytes from the other end that are truncated, out of bounds or for another mask
├── IdentityError    a certificate or key that is missing, damaged, expired, revoked or of another role
├── ConnectionLostError  the other end cannot be reached, or refuses
├── TrainingError    local training that failed (a loss that is not finite)
│   └── OverrunError a request that took more memory than was planned
└── RunError         a run that cannot start or go on
    ├── InterruptedRunError  the user stopped it; it can be resumed
    └── TooFewRepliesError   a round without enough usable replies; it can be played again

Each message is one sentence that says what was found and what to do next. The command line prints it without a
traceback (unless ``--debug``) and exits with ``exit_code``.
"""

from typing import Literal, TypeAlias

FailureKind: TypeAlias = Literal[
    "device", "memory", "lost", "transfer", "malformed", "mismatch", "bounds", "not_finite", "metrics", "duplicate"
]
"""Why a device that was asked counts for nothing: its own failure, too little `memory`, its connection (`lost`, or a
`transfer` that never came whole), or a reply that is not a payload (`malformed`), belongs to something else
(`mismatch`), holds values too large or not finite, has impossible `metrics`, or is one too many."""


class HedgerowError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 1


class ConfigError(HedgerowError, ValueError):
    """A configuration is wrong: the message names the key, what was found and what is allowed."""

    exit_code = 2


class BudgetError(ConfigError):
    """There is too little memory: the message says what would do."""


class DataError(HedgerowError, ValueError):
    """A data set is missing, corrupt, or cannot be divided as asked."""


class ModelError(HedgerowError, ValueError):
    """A model cannot be built, or does not fit the data."""


class PruningError(HedgerowError, ValueError):
    """A mask cannot be made as asked."""


class PayloadError(HedgerowError, ValueError):
    """Bytes from the other end are not a valid payload for this run, round and mask.

    Attributes:
        kind: what is wrong with them, to be counted by.
    """

    def __init__(self, message: str, *, kind: FailureKind = "malformed") -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class IdentityError(HedgerowError, ValueError):
    """A certificate or key is missing, damaged, expired, revoked, or of another role."""

    exit_code = 3


class ConnectionLostError(HedgerowError, ConnectionError):
    """The other end cannot be reached, or refuses."""

    exit_code = 4


class TrainingError(HedgerowError, ArithmeticError):
    """Local training failed, for example because the loss is not finite."""


class OverrunError(TrainingError):
    """A request took more memory than there was, and was given up.

    Attributes:
        guard: times a prediction that the memory has to be from now on.
    """

    def __init__(self, message: str, *, guard: float) -> None:
        super().__init__(message)
        self.guard = guard


class RunError(HedgerowError, RuntimeError):
    """A run cannot start or go on."""


class InterruptedRunError(RunError):
    """The user stopped a run; what is on disk can be resumed."""

    exit_code = 130


class TooFewRepliesError(RunError):
    """A round ended without enough usable replies.

    Attributes:
        usable: nodes whose reply was usable.
        answered: whether a device did answer, with a failure of its own or a reply that was refused.
    """

    def __init__(self, message: str, *, usable: frozenset[int], answered: bool) -> None:
        super().__init__(message)
        self.usable, self.answered = usable, answered
