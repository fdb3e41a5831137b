"""The noise process: what a noisy sample is, what the network is asked for, and what its error weighs.

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps        v = sqrt(abar_t) eps - sqrt(1 - abar_t) x0
    SNR = abar_t / (1 - abar_t)

Betas and samplers are those of diffusers, so that what is trained here samples there.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from vstrain.data import keyed
from vstrain.diffusion.config import Diffusion

X0_CAP = 8.0  # largest weight of an epsilon error under loss_weight=x0_capped


class NoiseSchedule:
    """Tensors x0, noise, x_t, prediction: (B, ...), one shape and dtype. t: (B,) int64 in [0, timesteps)."""

    def __init__(self, config: Diffusion):
        self.config = config
        self.alphas_cumprod = self.scheduler("ddpm").alphas_cumprod  # (timesteps,) float32, on the CPU

    def draw(self, keys: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Noise (B, *shape) and timesteps (B,) of a training step, keyed by the batch's keys (B,). shape[0]
        counts channels: `offset_noise` adds one number a sample and channel, for all frames of a clip."""
        noise = keyed.normal(keys, shape, "noise")
        if self.config.offset_noise:
            offset = keyed.normal(keys, (shape[0], *[1] * (len(shape) - 1)), "offset_noise")
            noise = noise + self.config.offset_noise * offset
        return noise, keyed.integers(keys, 0, self.config.timesteps, "timestep")

    def _signal_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to broadcast over `like`."""
        abar = self.alphas_cumprod.to(t.device)[t].to(torch.promote_types(like.dtype, torch.float32))
        abar = abar.reshape(-1, *[1] * (like.ndim - 1))
        return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._signal_noise(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should answer."""
        match self.config.prediction:
            case "epsilon":
                return noise
            case "sample":
                return x0
            case "v_prediction":
                signal, sigma = self._signal_noise(t, x0)
                return signal * noise - sigma * x0

    def x0(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean sample that a network's answer stands for."""
        signal, sigma = self._signal_noise(t, x_t)
        match self.config.prediction:
            case "epsilon":
                return (x_t - sigma * prediction) / signal
            case "sample":
                return prediction
            case "v_prediction":
                return signal * x_t - sigma * prediction

    def epsilon(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that a network's answer stands for."""
        signal, sigma = self._signal_noise(t, x_t)
        match self.config.prediction:
            case "epsilon":
                return prediction
            case "sample":
                return (x_t - signal * prediction) / sigma
            case "v_prediction":
                return signal * prediction + sigma * x_t

    def snr(self, t: Tensor) -> Tensor:
        """(B,) float32."""
        abar = self.alphas_cumprod.to(t.device)[t]
        return abar / (1 - abar)

    def weight(self, t: Tensor) -> Tensor:
        """(B,) float32 weight of the mean squared error of the network's own answer.

        uniform    1
        min_snr    min(SNR, gamma) on the x0 error (arXiv 2303.09556)
        x0_capped  min(1, 8 SNR) on the x0 error: for epsilon that is (1 - abar) / abar, at most 8
        An x0 error is 1/SNR times the epsilon error and 1/(SNR + 1) times the v error, so the last two weigh
        the same x0 error alike whatever the network predicts.
        """
        snr = self.snr(t)
        match self.config.loss_weight:
            case "uniform":
                return torch.ones_like(snr)
            case "min_snr":
                x0_weight = snr.clamp(max=self.config.min_snr_gamma)
            case "x0_capped":
                x0_weight = (X0_CAP * snr).clamp(max=1)
        match self.config.prediction:
            case "epsilon":
                return x0_weight / snr
            case "v_prediction":
                return x0_weight / (snr + 1)
            case "sample":
                return x0_weight

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(B,) float32: weighted mean squared error of each sample."""
        error = (prediction.float() - self.target(x0, noise, t).float()).square()
        return self.weight(t) * error.flatten(1).mean(dim=1)

    def scheduler(self, name: str = "ddim", spacing: str = "trailing", clip: float | None = None):
        """A diffusers scheduler of this process. `spacing` is diffusers' timestep_spacing: trailing starts
        at the last step and ends at x0 exactly, leading is what Stable Diffusion's samplers use. `clip`
        bounds the predicted x0 to [-clip, clip]."""
        config = self.config
        keys = {
            "num_train_timesteps": config.timesteps,
            "beta_schedule": config.beta_schedule,
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "prediction_type": config.prediction,
            "rescale_betas_zero_snr": config.zero_terminal_snr,
            "timestep_spacing": spacing,
            "clip_sample": clip is not None,
            "clip_sample_range": clip or 1.0,
        }
        with torch.device("cpu"):  # a system may be built under the meta device, its noise process never is
            match name:
                case "ddim":
                    return DDIMScheduler(**keys, set_alpha_to_one=spacing == "trailing", steps_offset=1)
                case "ddpm":
                    return DDPMScheduler(**keys, steps_offset=1)
        raise ValueError(f"scheduler {name!r}: expected ddim or ddpm")
