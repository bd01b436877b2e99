"""Which models may be trained, and which of them may be trained a whole batch at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from opacus.validators import ModuleValidator
from opacus.validators.errors import UnsupportedModuleError
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import rule_of
from gemel.privacy.engine.taps import TappedLayer, prepared_gradients, tapped_layers, uses_are_tapped

_PROBE_PATIENTS = 3
_SEED = 20_240_607


def check_trainable(model: nn.Module) -> None:
    """Refuse (GEM306) a model with nothing to train, of mixed dtypes, or with a layer that couples patients.

    The judge of layers is Opacus' validator; layers that a rule of ours trains exactly are taken out of its hands.
    """
    name = type(model).__name__
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if not dtypes:
        raise GemelError("GEM306", f"{name} has no trainable parameter.")
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        raise GemelError("GEM306", f"{name}: trainable parameters need one floating dtype, got {dtypes}.")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        # Opacus looks at trainable layers only; a frozen one still reads its whole batch while in training.
        raise GemelError("GEM306", f"{name} has a BatchNorm layer: it couples patients.")
    if errors := _complaints(model):
        raise GemelError("GEM306", f"{name}: {errors[0]}")


def _complaints(module: nn.Module) -> list[UnsupportedModuleError]:
    """What Opacus' validator says of every layer that has no rule here."""
    if rule_of(module) is not None:
        return []
    errors: list[UnsupportedModuleError] = []
    validate = ModuleValidator.VALIDATORS.get(type(module))
    if validate is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
        errors += validate(module)
    for child in module.children():
        errors += _complaints(child)
    return errors


def layers_to_tap(model: nn.Module, patients: Mapping[str, Tensor]) -> tuple[TappedLayer, ...] | None:
    """The layers through which this model may be trained a batch at a time; None: it must see one patient at a time.

    Decided on made-up inputs of the patients' shapes, before any patient is touched. A model may be tapped when rules
    cover all that is trained and, in the made-up batch, nothing of one patient (loss, taps, what is saved at them)
    depends on another: no gradient leads from one's loss to another's input, nothing changes when the others are
    replaced, and a loss is the same alone. A model that draws random numbers (dropout) or that cannot take such inputs is
    not tapped. Shapes: as the patients', any number of rows.
    """
    layers = tapped_layers(model)
    if layers is None:
        return None
    probe = copy.deepcopy(model)
    for module in probe.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # on a GPU cuDNN warns of a copy that lies in pieces
    copies = tapped_layers(probe)
    if copies is None:
        return None
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices=devices):
            return layers if _is_uncoupled(probe, copies, patients) else None
    except Exception:
        # Whatever a model does with inputs that it was not made for: one patient at a time is always right.
        return None


def _is_uncoupled(model: nn.Module, layers: tuple[TappedLayer, ...], patients: Mapping[str, Tensor]) -> bool:
    generator = torch.Generator().manual_seed(_SEED)
    for low, high in ((-1.5, 1.5), (0.05, 0.95)):
        batch = _made_up(patients, generator, low, high)
        other = _made_up(patients, generator, low, high)
        losses = model(batch).detach()
        if losses.shape == (_PROBE_PATIENTS,) and bool(torch.isfinite(losses).all()):
            return (
                bool(torch.equal(losses, model(batch).detach()))
                and uses_are_tapped(model, layers, batch)
                and _no_gradient_crosses(model, batch)
                and _nothing_changes_with_others(model, layers, batch, other)
            )
    return False


def _made_up(
    patients: Mapping[str, Tensor], generator: torch.Generator, low: float, high: float
) -> dict[str, Tensor]:
    """Uniform floats; 0 and 1 where whole numbers are (they index something of unknown length)."""
    batch = {}
    for name, tensor in patients.items():
        shape = (_PROBE_PATIENTS, *tensor.shape[1:])
        if tensor.is_floating_point():
            values = torch.rand(shape, generator=generator) * (high - low) + low
        else:
            values = torch.randint(0, 2, shape, generator=generator)
        batch[name] = values.to(device=tensor.device, dtype=tensor.dtype)
    return batch


def _no_gradient_crosses(model: nn.Module, batch: Mapping[str, Tensor]) -> bool:
    inputs = {
        name: tensor.clone().requires_grad_(True)
        for name, tensor in batch.items()
        if tensor.is_floating_point()
    }
    losses = model({**batch, **inputs})
    if not losses.requires_grad:
        return True
    for patient in range(_PROBE_PATIENTS):
        gradients = torch.autograd.grad(
            losses[patient], list(inputs.values()), retain_graph=True, allow_unused=True
        )
        for gradient in gradients:
            if gradient is None:
                continue
            others = torch.arange(_PROBE_PATIENTS, device=gradient.device) != patient
            if bool((gradient[others] != 0).any()):
                return False
    return True


def _nothing_changes_with_others(
    model: nn.Module,
    layers: tuple[TappedLayer, ...],
    batch: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
) -> bool:
    for patient in range(_PROBE_PATIENTS):
        kept = {name: other[name].clone() for name in batch}
        for name, tensor in batch.items():
            kept[name][patient] = tensor[patient]
        first, second = (_gradient_of(model, layers, among, patient) for among in (batch, kept))
        if not (_agree(first, second, 1e-5) and _agree(first, _gradient_alone(model, batch, patient), 1e-3)):
            return False
    return True


def _gradient_of(
    model: nn.Module, layers: tuple[TappedLayer, ...], batch: Mapping[str, Tensor], patient: int
) -> list[Tensor]:
    """One patient's loss and gradient of each parameter, as the batched way gives them."""
    losses, prepared = prepared_gradients(model, layers, batch)
    only = torch.zeros_like(losses)
    only[patient] = 1.0
    sums: dict[str, Tensor] = {}
    for layer, one in zip(layers, prepared, strict=True):
        if one is not None:
            sums.update(zip(layer.parameters, one.weighted_sum(only), strict=True))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [losses[patient], *(sums.get(name, torch.zeros_like(p)).detach() for name, p in trained)]


def _gradient_alone(model: nn.Module, batch: Mapping[str, Tensor], patient: int) -> list[Tensor]:
    """The same by plain autograd, of a batch of one."""
    losses = model({name: tensor[patient : patient + 1] for name, tensor in batch.items()})
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
    return [
        losses.detach().sum(),
        *(torch.zeros_like(p) if g is None else g for g, p in zip(gradients, trained, strict=True)),
    ]


def _agree(first: list[Tensor], second: list[Tensor], tolerance: float) -> bool:
    flat, other = (torch.cat([t.detach().reshape(-1).double() for t in part]) for part in (first, second))
    return bool((flat - other).norm() <= tolerance * other.norm() + 1e-6)
