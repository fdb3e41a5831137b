"""Keys of the diffusion core. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.strict import PositiveFloat, PositiveInt, Strict


class Diffusion(Strict):
    """The noise process and the weight of its training loss (see vstrain.diffusion.schedule)."""

    beta_schedule: Literal["linear", "scaled_linear"]  # scaled_linear: linear in sqrt(beta)
    beta_start: PositiveFloat
    beta_end: Annotated[float, Field(gt=0, lt=1)]
    timesteps: PositiveInt
    prediction: Literal["epsilon", "v_prediction", "sample"]
    zero_terminal_snr: bool  # rescale the betas so that the last step is pure noise
    loss_weight: Literal["uniform", "min_snr", "x0_capped"]
    min_snr_gamma: PositiveFloat
    offset_noise: Annotated[float, Field(ge=0)]  # s: noise gets s * g, g constant over pixels

    @model_validator(mode="after")
    def _terminal_step_can_be_learned(self):
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "zero_terminal_snr with prediction=epsilon cannot be learned, the last step"
                " has no signal: use prediction=v_prediction or sample"
            )
        if self.zero_terminal_snr and self.loss_weight != "uniform":
            raise ValueError(
                f"zero_terminal_snr with loss_weight={self.loss_weight} never trains the last"
                " step (weight 0): use loss_weight=uniform"
            )
        if self.zero_terminal_snr and self.offset_noise:
            raise ValueError("zero_terminal_snr and offset_noise solve the same problem: set offset_noise=0")
        return self


class Codec(Strict):
    """Pixels to latents and back (see vstrain.diffusion.codec)."""

    name: Literal["identity", "space_to_depth", "autoencoder_kl"]
    path: str | None  # folder with the weights of autoencoder_kl, in the diffusers layout
    factor: PositiveInt  # pixels per latent along one side
    channels: PositiveInt  # channels of a latent
    scale: PositiveFloat  # latents are multiplied by this, so that their variance is about 1

    @model_validator(mode="after")
    def _shape_matches_the_codec(self):
        factor, channels = {
            "identity": (1, 3),
            "space_to_depth": (self.factor, 3 * self.factor**2),
            "autoencoder_kl": (8, 4),
        }[self.name]
        if (self.factor, self.channels) != (factor, channels):
            raise ValueError(
                f"codec {self.name} has factor {factor} and {channels} channels,"
                f" not factor {self.factor} and {self.channels} channels"
            )
        return self
