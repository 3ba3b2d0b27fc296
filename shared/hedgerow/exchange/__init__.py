"""What coordinator and clients say to each other about a network: versions, and replies to them."""

from hedgerow.exchange.architecture import Architecture
from hedgerow.exchange.measures import Measures
from hedgerow.exchange.version import Exchange, Version

__all__ = ["Architecture", "Exchange", "Measures", "Version"]
