"""What the parts of a certificate's schema are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
RelativePath = Annotated[str, Field(pattern=r"^[^/\\]")]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Unknown keys are refused; nothing is converted but whole numbers to floats."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
