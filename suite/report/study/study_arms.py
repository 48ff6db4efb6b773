"""The arms of a sweep that the study "ResNet-18 on CIFAR-10" compares, found by settings.

Two arms are a pair where they differ in nothing but what the comparison is about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Configs = Mapping[str, Mapping[str, str]]

_WEIGHTS = ("model.weights", "model.imagenet_file")
_HEAD = ("model.head",)
_FREEZING = ("model.freeze_depth", "model.freeze_batchnorm")
_ARCH = ("model.arch",)
_DROPOUT = ("model.dropout",)
_PLAIN = re.compile(r"plain(\d+)(_cifar)?")
CONFIG1, CONFIG2 = ([128], 0.3), ([256, 128, 128, 64, 32], [0.2, 0.2, 0.2, 0.2, 0.0])


@dataclass(frozen=True)
class StudyArms:
    """Pairs of arms, the first one of each being what the study compares with.

    Attributes:
        weights: (random start, pretrained).
        heads: (Config2, Config1).
        freezing: (all weights learnable, some frozen), with equal heads.
        freezing_and_head: the same, but the heads differ too.
        depths: (shallow plain net, deep plain net).
        residual: plain net -> the residual net of its depth.
        dropout: places -> rate -> arm; the arm without dropout is in all of them.
    """

    weights: tuple[tuple[str, str], ...] = ()
    heads: tuple[tuple[str, str], ...] = ()
    freezing: tuple[tuple[str, str], ...] = ()
    freezing_and_head: tuple[tuple[str, str], ...] = ()
    depths: tuple[tuple[str, str], ...] = ()
    residual: Mapping[str, str] = field(default_factory=dict)
    dropout: Mapping[str, Mapping[float, str]] = field(default_factory=dict)


def find_study_arms(configs: Configs) -> StudyArms:
    """What the arms' settings make of them."""
    plain = {
        arm: match
        for arm in configs
        if (match := _PLAIN.fullmatch(_of(configs, arm, "model.arch")))
    }
    alike = list(_pairs(configs, _learnable, _frozen, _FREEZING))
    frozen = list(_pairs(configs, _learnable, _frozen, (*_FREEZING, *_HEAD)))
    return StudyArms(
        weights=tuple(_pairs(configs, _random, _learnable, _WEIGHTS)),
        heads=tuple(_pairs(configs, _is_config2, _is_config1, _HEAD)),
        freezing=tuple(alike),
        freezing_and_head=tuple(pair for pair in frozen if pair not in alike),
        depths=tuple(
            (a, b)
            for a, b in _twins(configs, list(plain), list(plain), _ARCH)
            if plain[a][2] == plain[b][2] and int(plain[a][1]) < int(plain[b][1])
        ),
        residual={
            a: b
            for a, b in _twins(configs, list(plain), list(configs), _ARCH)
            if _of(configs, b, "model.arch") == f"resnet{plain[a][1]}{plain[a][2] or ''}"
        },
        dropout=_rates(configs),
    )


def _pairs(
    configs: Configs, first: Any, second: Any, about: Sequence[str]
) -> Iterable[tuple[str, str]]:
    ours = [arm for arm, config in configs.items() if first(config)]
    theirs = [arm for arm, config in configs.items() if second(config)]
    return _twins(configs, ours, theirs, about)


def _twins(
    configs: Configs, ours: Sequence[str], theirs: Sequence[str], about: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs that differ in nothing but the settings that begin with one of ``about``."""
    rest = {arm: _without(configs[arm], about) for arm in {*ours, *theirs}}
    return [
        (arm, twin) for arm in ours for twin in theirs if arm != twin and rest[arm] == rest[twin]
    ]


def _without(config: Mapping[str, str], about: Sequence[str]) -> frozenset[tuple[str, str]]:
    return frozenset(
        (name, value) for name, value in config.items() if not name.startswith(tuple(about))
    )


def _of(configs: Configs, arm: str, name: str) -> str:
    return configs[arm].get(name, "")


def _random(config: Mapping[str, str]) -> bool:
    return config.get("model.weights") == "none" and config.get("model.freeze_depth") == "0"


def _pretrained(config: Mapping[str, str]) -> bool:
    return config.get("model.weights", "none") not in ("none", "null")


def _learnable(config: Mapping[str, str]) -> bool:
    return _pretrained(config) and config.get("model.freeze_depth") == "0"


def _frozen(config: Mapping[str, str]) -> bool:
    """Some layers frozen, with the head that the study compares: a plain one, or Config1's."""
    hidden = parsed(config.get("model.head.hidden", "[]"))
    return (
        _pretrained(config)
        and config.get("model.freeze_depth", "0") != "0"
        and hidden in ([], CONFIG1[0])
    )


def _is_config1(config: Mapping[str, str]) -> bool:
    return _head(config) == CONFIG1


def _is_config2(config: Mapping[str, str]) -> bool:
    return _head(config) == CONFIG2


def _head(config: Mapping[str, str]) -> tuple[Any, Any]:
    return parsed(config.get("model.head.hidden", "null")), parsed(
        config.get("model.head.dropout", "null")
    )


def _rates(configs: Configs) -> dict[str, dict[float, str]]:
    """Place of dropout -> rate -> arm, for places with several rates and otherwise equal
    settings.
    """
    by_place: dict[tuple[frozenset[tuple[str, str]], str], dict[float, str]] = {}
    bases: dict[frozenset[tuple[str, str]], str] = {}
    for arm, config in configs.items():
        rate, rest = parsed(config.get("model.dropout.rate", "0")), _without(config, _DROPOUT)
        if rate:
            by_place.setdefault((rest, config.get("model.dropout.after", "")), {})[float(rate)] = (
                arm
            )
        else:
            bases[rest] = arm
    only = {rest for rest, _ in by_place}
    if len(only) != 1:  # dropout is not what the sweep is about
        return {}
    return {
        _places(after): dict(
            sorted({**({0.0: bases[rest]} if rest in bases else {}), **rates}.items())
        )
        for (rest, after), rates in by_place.items()
        if len(rates) + (rest in bases) > 1
    }


def _places(text: str) -> str:
    places = parsed(text)
    if not isinstance(places, list):
        return text
    return f"{places[0]} to {places[-1]}" if len(places) > 2 else " and ".join(map(str, places))


def parsed(text: str) -> Any:
    """What a param holds; its text where that is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
