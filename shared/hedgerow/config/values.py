"""What settings are made of: frozen models that know all their keys, and numbers with bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "Fraction", "NotNegative", "Positive", "Settings", "UnitPositive"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
UnitPositive = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Settings(BaseModel):
    """One section of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
