"""Path parameters that the trainer's routes share."""

import uuid
from typing import Annotated

from fastapi import Path

from shared.spec.types import Name

PipelineName = Annotated[Name, Path(description="The pipeline's name.")]
CycleId = Annotated[uuid.UUID, Path(description="The cycle's id.")]
RunId = Annotated[uuid.UUID, Path(description="The run's id.")]
