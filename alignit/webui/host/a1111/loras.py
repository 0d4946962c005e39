"""LoRAs, which the host's built-in extension of that name applies (``extensions-builtin/Lora``).

The extension keeps a list of the networks at work. Whenever a module of the model runs whose weights were made with
another list, it restores them from its own copy, and adds what each network of the list makes of them. A network that
is bound is exchanged there for one without modules and with a name of its own, by which the change is noticed; the
host then computes with the weights as they are without it, and writes them once. The text encoders' part takes its
place in the list for the length of a block.

Every kind of network that the host reads says by its own ``calc_updown`` what it adds to a weight W: LoRA, LoCon, DoRA,
LoHa, LoKr, IA3, OFT, BOFT, GLora, whole differences. It is asked with the weight as it is, and includes the strength.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignit.concepts.concept import ModelShapes
from alignit.webui.host.ports import LoraFile, LoraParts

_UNET = "diffusion_model_"
# Where a module of the UNet has such a name, it is a key or value projection of the cross-attention.
_PROJECTIONS = ("_attn2_to_k", "_attn2_to_v")


def find_loras() -> A1111Loras | None:
    """Return the host's LoRAs, where its extension is there and is the one that is known here."""
    networks = sys.modules.get("networks")
    # reForge and others have an extension of this name that hands LoRAs to another machinery.
    known = ("loaded_networks", "available_networks", "available_network_aliases", "module_types", "load_network")
    return A1111Loras(networks) if all(hasattr(networks, name) for name in known) else None


class A1111Loras:
    """The extension; a `alignit.webui.host.ports.Loras`."""

    def __init__(self, networks: Any) -> None:
        """Take the extension's module."""
        self._networks = networks

    def find(self, name: str) -> LoraFile | None:
        """See `alignit.webui.host.ports.Loras`."""
        networks = self._networks
        forbidden = name.lower() in getattr(networks, "forbidden_network_aliases", {})
        names = networks.available_networks if forbidden else networks.available_network_aliases
        found = names.get(name)
        return None if found is None else LoraFile(Path(found.filename), found.metadata)

    def bind(self, files: Collection[Path]) -> A1111BoundLoras:
        """See `alignit.webui.host.ports.Loras`."""
        return A1111BoundLoras(self._networks.loaded_networks, files)


class A1111BoundLoras:
    """Networks that are exchanged in the extension's list; a `alignit.webui.host.ports.BoundLoras`."""

    def __init__(self, at_work: list[Any], files: Collection[Path]) -> None:
        """Exchange them: all, or none where that fails."""
        self._at_work = at_work
        self._exchanged: list[tuple[Any, Any]] = []  # what stands in the list, and what stood there
        self.parts: dict[Path, LoraParts] = {}
        before = list(at_work)
        try:
            for file in files:
                self._bind(file, [net for net in before if Path(net.network_on_disk.filename) == file])
        except BaseException:
            at_work[:] = before
            raise

    def _bind(self, file: Path, networks: list[Any]) -> None:
        if not networks:
            return  # the host could not read it, and says so
        net = networks[0]
        # Named twice, it is one object twice in the list: the host adds what it changes twice.
        times = len(networks)
        places = [_part(net, "bound", lambda _key: False) for _ in networks]
        for place in places:
            self._exchange(net, place)
        encoder = _part(net, "text encoder", lambda key: not key.startswith(_UNET), times)
        projections = _part(net, "keys and values", _is_projection, times)
        others = _part(net, "others", lambda key: key.startswith(_UNET) and not _is_projection(key), times)
        same = (str(file), net.mtime, net.te_multiplier, net.unet_multiplier, net.dyn_dim, times)
        self.parts[file] = LoraParts(
            ProjectionsOfLora(same, projections.modules) if projections.modules else None,
            EncoderOfLora(same, encoder, places[0], self._at_work) if encoder.modules else None,
            OthersOfLora(same, others.modules) if others.modules else None,
            len(net.modules),
        )

    def _exchange(self, net: Any, place: Any) -> None:
        index = next(index for index, other in enumerate(self._at_work) if other is net)
        self._at_work[index] = place
        self._exchanged.append((place, net))

    def give_back(self) -> None:
        """See `alignit.webui.host.ports.BoundLoras`."""
        for place, net in self._exchanged:
            for index, other in enumerate(self._at_work):
                if other is place:
                    self._at_work[index] = net
        self._exchanged.clear()


@dataclass(frozen=True)
class EncoderOfLora:
    """A network's part of the text encoders; a `alignit.concepts.concept.EncoderChange`.

    Attributes:
        same: What stands for it: file, its time, strengths.
        part: A network with the text encoders' modules alone.
        place: What stands in the list for the network while it is bound.
        at_work: The extension's list.
    """

    same: tuple[Any, ...]
    part: Any = field(compare=False)
    place: Any = field(compare=False)
    at_work: list[Any] = field(compare=False)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """See `alignit.concepts.concept.EncoderChange`; the host holds them."""
        return ()

    def misfit(self, _model: ModelShapes) -> str | None:
        """See `alignit.concepts.concept.EncoderChange`; the host leaves out what does not fit."""
        return None

    @contextmanager
    def applied(self, _layers: Sequence[Any]) -> Iterator[None]:
        """See `alignit.concepts.concept.EncoderChange`; the host finds the layers itself.

        Raises:
            RuntimeError: Something else has emptied or filled the list.
        """
        before = list(self.at_work)
        if not any(net is self.place for net in before):
            raise RuntimeError("the list of networks was changed while a LoRA was bound")
        self.at_work[:] = [self.part if net is self.place else net for net in before]
        try:
            yield
        finally:
            self.at_work[:] = before


@dataclass(frozen=True)
class ProjectionsOfLora:
    """A network's part of W_k and W_v; a `alignit.concepts.weight_change.WeightChange`.

    Attributes:
        same: What stands for it: file, its time, strengths.
        modules: The network's modules by the extension's names.
    """

    same: tuple[Any, ...]
    modules: Mapping[str, Any] = field(compare=False)

    def to(self, _device: torch.device, _dtype: torch.dtype) -> ProjectionsOfLora:
        """See `alignit.concepts.weight_change.WeightChange`; it goes where the weight is."""
        return self

    def apply(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """See `alignit.concepts.weight_change.WeightChange`."""
        module = self.modules.get(_key(layer))
        if module is None:
            return outputs
        delta, bias = difference(module, _live(_key(layer)))
        bias = None if bias is None else bias.to(inputs)
        return outputs + torch.nn.functional.linear(inputs, delta.to(inputs), bias).to(outputs)


@dataclass(frozen=True)
class OthersOfLora:
    """A network's part of the UNet's other layers; a `alignit.concepts.layer_change.LayerChange`.

    Attributes:
        same: What stands for it: file, its time, strengths.
        modules: The network's modules by the extension's names.
    """

    same: tuple[Any, ...]
    modules: Mapping[str, Any] = field(compare=False)
    # Where the layers compute: two thin factors, or the whole of what is added to weight and bias.
    _kept: dict[Hashable, tuple[torch.Tensor, torch.Tensor | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def layers(self, unet: torch.nn.Module) -> Iterator[str]:
        """See `alignit.concepts.layer_change.LayerChange`."""
        return (name for name, _ in unet.named_modules() if _key(name) in self.modules)

    def difference(self, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        """See `alignit.concepts.layer_change.LayerChange`."""
        key = _key(layer)
        module, live = self.modules[key], _live(key)
        thin = _is_thin(module)
        # Another checkpoint can come in mid-sampling: a refiner.
        at = key, inputs.device, inputs.dtype, None if thin else _checkpoint()
        if at not in self._kept:
            first, second = (module.down_model.weight, module.up_model.weight) if thin else difference(module, live)
            if not thin and first.dim() == 4 and live.weight.shape[1] != first.shape[1]:
                # Of a model for inpainting, which has more channels than the one that was trained.
                first = torch.nn.functional.pad(first, (0, 0, 0, 0, 0, live.weight.shape[1] - first.shape[1]))
            self._kept[at] = first.to(inputs), None if second is None else second.to(inputs)
        first, second = self._kept[at]
        if not thin:
            added: torch.Tensor = module.ops(inputs, weight=first, bias=second, **module.extra_kwargs)
            return added
        assert second is not None
        strength = float(module.multiplier() * module.calc_scale())
        if first.dim() == 4:
            down = module.down_model
            narrow = torch.nn.functional.conv2d(inputs, first, stride=down.stride, padding=down.padding)
            return strength * torch.nn.functional.conv2d(narrow, second)
        return strength * torch.nn.functional.linear(torch.nn.functional.linear(inputs, first), second)


def _is_thin(module: Any) -> bool:
    """Say whether a network's module is two thin factors and nothing else: an ordinary LoRA's or LoCon's."""
    factors = all(getattr(module, name, None) is not None for name in ("up_model", "down_model"))
    more = (module.dora_scale, module.bias, module.network.dyn_dim, getattr(module, "mid_model", None))
    fits = factors and module.sd_module.weight.shape[1] == module.down_model.weight.shape[1]
    return fits and all(item is None for item in more)


def _checkpoint() -> Hashable:
    from modules import shared

    checkpoint: Hashable = shared.sd_model.sd_checkpoint_info
    return checkpoint


def difference(module: Any, layer: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what a network's module adds to the weight and to the bias of a layer, at its strength."""
    weight = layer.weight
    kept = getattr(layer, "fp16_weight", None)
    if kept is not None:  # the weight itself is stored in 8 bits
        weight = kept.to(weight.device)
    with torch.no_grad():
        delta, bias = module.calc_updown(weight)
    return delta, bias


def _live(key: str) -> Any:
    from modules import shared

    return shared.sd_model.network_layer_mapping[key]


def _key(layer: str) -> str:
    return _UNET + layer.replace(".", "_")


def _is_projection(key: str) -> bool:
    return key.startswith(_UNET) and key.endswith(_PROJECTIONS)


def _part(net: Any, name: str, wanted: Callable[[str], bool], times: int = 1) -> Any:
    """Return a network with some of another's modules, so many times as strong, and with a name of its own."""
    part = copy.copy(net)
    part.name = f"{net.name} (AlignIT: {name})"
    part.te_multiplier, part.unet_multiplier = net.te_multiplier * times, net.unet_multiplier * times
    part.modules = {}
    for key, module in net.modules.items():
        if wanted(key):
            part.modules[key] = copy.copy(module)
            part.modules[key].network = part  # which it asks for its strength
    return part
