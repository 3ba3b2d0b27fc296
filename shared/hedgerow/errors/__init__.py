"""Everything that hedgerow raises on purpose.

HedgerowError
├── ConfigError      a key or value of an experiment, a recipe or a command-line option
├── DataError        a data set that is missing, corrupt, or cannot be divided as asked
├── ModelError       a model that cannot be built, or does not fit the data
├── PruningError     a mask that cannot be made (density too low, no path through the network)
├── PayloadError     bytes from the other end that are truncated, out of bounds or for another mask
├── TrainingError    local training that failed (a loss that is not finite)
└── RunError         a run that cannot start or go on
    └── InterruptedRunError  the user stopped it; it can be resumed

Each message is one sentence that says what was found and what to do next. The command line prints it without a
traceback (unless ``--debug``) and exits with ``exit_code``.
"""


class HedgerowError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 1


class ConfigError(HedgerowError, ValueError):
    """A configuration is wrong: the message names the key, what was found and what is allowed."""

    exit_code = 2


class DataError(HedgerowError, ValueError):
    """A data set is missing, corrupt, or cannot be divided as asked."""


class ModelError(HedgerowError, ValueError):
    """A model cannot be built, or does not fit the data."""


class PruningError(HedgerowError, ValueError):
    """A mask cannot be made as asked."""


class PayloadError(HedgerowError, ValueError):
    """Bytes from the other end are not a valid payload for this run, round and mask."""


class TrainingError(HedgerowError, ArithmeticError):
    """Local training failed, for example because the loss is not finite."""


class RunError(HedgerowError, RuntimeError):
    """A run cannot start or go on."""


class InterruptedRunError(RunError):
    """The user stopped a run; what is on disk can be resumed."""

    exit_code = 130
