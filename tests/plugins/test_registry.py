"""The registry: every plugin comes in through one door, and a broken one is named."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from plugins.contract import Api, Provider, ProviderOptions
from plugins.demo import Demo
from plugins.openai_compatible import OpenAICompatible
from plugins.openrouter import OpenRouter
from plugins.registry import BUILT_IN, GROUP, PluginError, available, load

HERE = "tests.plugins.test_registry"


def plugin(name: str, attribute: str, module: str = HERE) -> EntryPoint:
    """Declare a plugin as a distribution does."""
    return EntryPoint(name, f"{module}:{attribute}", GROUP)


class Renamed(OpenAICompatible):
    """A provider that ignores its configured name."""

    @property
    def name(self) -> str:
        """A name of its own."""
        return "mine"


def make_nothing(options: ProviderOptions) -> Any:
    """Make something that is no provider."""
    return object()


class Unfinished(Provider):
    """A provider that has begun to write down the protocol's methods, and inherits the others."""

    name = "acme"

    @property
    def apis(self) -> frozenset[Api]:
        """Chat alone."""
        return frozenset({Api.CHAT})

    def __init__(self, options: ProviderOptions) -> None:
        """Need no options."""

    def base_id(self, model: str) -> None:
        """Know no suffixes."""


class Half:
    """A provider that lacks most methods."""

    def __init__(self, options: ProviderOptions) -> None:
        """Have a name alone."""
        self.name = options.name


def make_class(options: ProviderOptions) -> Any:
    """Return a class instead of an instance of it."""
    return Demo


def test_built_ins() -> None:
    """The built-in plugins make providers of their names."""
    factories = available([])
    assert list(factories) == [name for name, _ in BUILT_IN]
    for name, factory in factories.items():
        provider = factory(ProviderOptions(name))
        assert isinstance(provider, Provider)
        assert provider.name == name


def test_installed_plugins_are_looked_for() -> None:
    """Without being told the plugins, the registry asks the installed distributions."""
    assert {name for name, _ in BUILT_IN} <= available().keys()


def test_third_party() -> None:
    """A third party's plugin stands beside the built-in ones."""
    provider = available([plugin("acme", "OpenAICompatible")])["acme"](ProviderOptions("local"))
    assert isinstance(provider, OpenAICompatible)


@pytest.mark.parametrize("taken", [[plugin("demo", "Demo")], [plugin("a", "Demo"), plugin("a", "Renamed")]])
def test_taken_name(taken: list[EntryPoint]) -> None:
    """A name that is taken, by a built-in plugin or another, is refused, and both are named."""
    with pytest.raises(PluginError, match=rf"is there twice: .+ and {taken[-1].value}"):
        available(taken)


def test_same_plugin_listed_twice() -> None:
    """A plugin that two installations of it list is one plugin."""
    assert "acme" in available([plugin("acme", "Demo"), plugin("acme", "Demo")])


@pytest.mark.parametrize(("module", "attribute"), [("no.such.module", "Thing"), (HERE, "Missing")])
def test_broken_import(module: str, attribute: str) -> None:
    """A plugin that cannot be imported is named when it is used, and harms no other."""
    factories = available([plugin("acme", attribute, module)])
    factories["demo"](ProviderOptions("demo"))
    with pytest.raises(PluginError, match=r"plugin 'acme' \(.+\) cannot be imported: "):
        factories["acme"](ProviderOptions("acme"))


@pytest.mark.parametrize(
    ("attribute", "complaint"),
    [
        ("make_nothing", "made no provider, but object"),
        (
            "Half",
            "made no provider, but Half, which lacks apis, models_request, read_models, .+, stops_billing$",
        ),
        ("Unfinished", "made no provider, but Unfinished, which lacks models_request, .+, stops_billing$"),
        ("make_class", "made no provider, but type"),
        ("HERE", "'str' object is not callable"),
        ("Renamed", "named its provider 'mine' instead of 'acme'"),
    ],
)
def test_misfits(attribute: str, complaint: str) -> None:
    """What a factory makes must be a provider of the configured name."""
    with pytest.raises(PluginError, match=complaint):
        available([plugin("acme", attribute)])["acme"](ProviderOptions("acme"))


def test_load() -> None:
    """Providers are made in order, and one plugin may be configured several times."""
    asked = [("openai_compatible", ProviderOptions("ollama")), ("openai_compatible", ProviderOptions("vllm"))]
    made = load([*asked, ("openrouter", ProviderOptions("openrouter"))], available([]))
    assert list(made) == ["ollama", "vllm", "openrouter"]
    assert isinstance(made["openrouter"], OpenRouter)


def test_load_finds_plugins_by_itself() -> None:
    """Without being given factories, the available ones are taken."""
    assert list(load([("demo", ProviderOptions("demo"))])) == ["demo"]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            [("acme", ProviderOptions("a"))],
            "provider 'a': no plugin 'acme'; there are demo, huggingface, openai_comp",
        ),
        (
            [("demo", ProviderOptions("a")), ("demo", ProviderOptions("a"))],
            "provider 'a' is configured twice",
        ),
        (
            [("demo", ProviderOptions("a", extra={"x": 1}))],
            "provider 'a': plugin 'demo' .+: unknown option 'x'",
        ),
    ],
)
def test_wrong_configuration(asked: list[tuple[str, ProviderOptions]], complaint: str) -> None:
    """A wrong configuration is a ValueError of one line that names the provider."""
    with pytest.raises(ValueError, match=complaint) as refused:
        load(asked, available([]))
    assert "\n" not in str(refused.value)
