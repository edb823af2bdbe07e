"""What PID 1 of the trainer answers on `/progress`, and what the worker writes for it."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.names import ActiveReason


class Progress(BaseModel):
    """Where a run is now. Numbers are plain JSON numbers; only the status of the object turns them into strings."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    phase: ActiveReason = ActiveReason.STARTING
    step: int = Field(default=0, ge=0)
    """Optimizer steps done."""
    total_steps: int = Field(default=0, ge=0)
    """0 until the dataset has been read."""
    resumed_from: int | None = Field(default=None, ge=0)
    """The step that this session began with, 0 without a checkpoint; None until training begins."""
    epoch: float = 0.0
    loss: float | None = None
    """Training loss of the last logged step; never NaN (a non-finite loss ends the run)."""
    learning_rate: float | None = None
    eta_seconds: int | None = Field(default=None, ge=0)
    """From the rate of this session, so that it is right at once after a resume."""
    message: str = ""
    """One sentence for people, for instance `downloading model.safetensors (120 of 269 MB)`."""
    updated_at: float = 0.0
    """Unix time in seconds."""

    @property
    def percent(self) -> int:
        """0..99 while running: 100 is only ever said of a verified adapter."""
        return min(99, 100 * self.step // self.total_steps) if self.total_steps else 0
