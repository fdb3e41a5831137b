"""DeepSpeed's sharded state as pieces (vstrain.engine.checkpoint.pieces): the float32 weights and Adam's moments that each rank
holds, by parameter name. With them a ZeRO run is saved and resumed like any other, on other ranks and under other strategies."""

from __future__ import annotations

import torch
from torch import Tensor

from vstrain.data.stream import Share
from vstrain.engine.checkpoint.pieces import Piece, piece
from vstrain.system import System

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroState:
    """`optimizer`: DeepSpeed's, of stage 1, 2 or 3."""

    def __init__(self, system: System, optimizer, stage: int, share: Share, offload: bool = False):
        self.system, self.optimizer, self.stage, self.share, self.offload = system, optimizer, stage, share, offload
        self._count = torch.zeros(())  # optimiser steps so far, which each flat tensor has a record of

    @property
    def flats(self) -> list[Tensor]:
        """The tensors that the optimiser steps: many parameters in a row, this rank's share."""
        return (
            self.optimizer.fp32_partitioned_groups_flat
            if self.stage == 3
            else self.optimizer.single_partition_of_fp32_groups
        )

    def pieces(self) -> dict[str, dict[str, Piece]]:
        model, moments = {}, {}
        if any(self._states()):
            self._link()
        self._count.fill_(max((float(state["step"]) for state in self._states() if "step" in state), default=0.0))
        for name, value in self.system.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.nn.Parameter):
                model[name] = piece(value, self.share.rank)
                continue
            if (weight := self._part(value, None)) is not None:
                model[name] = weight
            if value.requires_grad and any(self._states()):
                moments |= {f"{name}/{key}": one for key in MOMENTS if (one := self._part(value, key)) is not None}
                moments[f"{name}/step"] = piece(self._count, self.share.rank)
        return {"model": model, "optimizer": moments}

    def gradients(self) -> list[Tensor]:
        """This rank's part of the gradient, between the last backward pass of a step and the step."""
        if self.offload:
            return [flat.grad for flat in self.flats]
        return [part for parts in self.optimizer.averaged_gradients.values() for part in parts or ()]

    def begin_moments(self) -> None:
        """What the optimiser would make at its first step."""
        for flat in self.flats:
            self.optimizer.optimizer.state[flat] = {key: torch.zeros_like(flat) for key in MOMENTS} | {
                "step": torch.zeros(())
            }
        self._link()

    def _link(self) -> None:
        """Tell the weights where their moments are. DeepSpeed does so when the first group has stepped, for that one alone."""
        if self.stage < 3:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def filled(self) -> None:
        """All float32 pieces have new values, and the count of steps has."""
        for state in self._states():
            state["step"] = (
                int(self._count) if self.offload else self._count.clone()
            )  # DeepSpeed's Adam counts with an int
        self.hand_on()

    def hand_on(self) -> None:
        """The float32 weights have new values: give them to the weights that the networks compute with."""
        if self.stage < 3:
            self.optimizer.update_lp_params()
            return
        with torch.no_grad():
            for parameter in self.system.parameters():
                if parameter.requires_grad:
                    parameter.ds_tensor.copy_(self._flat(parameter, None))
            persistent = self.optimizer.persistent_parameters
            if persistent:
                persistent[0].partition(persistent)
                persistent[0].all_gather(persistent)

    def _states(self) -> list[dict]:
        return [self.optimizer.optimizer.state[flat] for flat in self.flats if flat in self.optimizer.optimizer.state]

    def _part(self, parameter, key: str | None) -> Piece | None:
        """This rank's part of a parameter (key None) or of one of its moments; None where it holds nothing of it."""
        if self.stage == 3:
            flat = self._flat(parameter, key) if parameter.requires_grad else parameter.ds_tensor
            start = self.share.rank * flat.numel()
            count = max(0, min(flat.numel(), parameter.ds_numel - start))  # the last parts are padded
            return Piece(flat.detach()[:count], tuple(parameter.ds_shape), start, True)
        if not parameter.requires_grad:
            return piece(parameter, self.share.rank)
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        fragment = mapping.get_hp_fragment(key).detach()
        return Piece(fragment, tuple(parameter.shape), mapping.lp_fragment_address.start, True)

    def _flat(self, parameter, key: str | None) -> Tensor:
        return self.optimizer._get_fp32_opt_state_partition(parameter, False, key)[0]
