"""Which plugins there are: ours and third parties', found through the same door.

Law: a plugin is an entry point. A broken one is named, and stops nobody who does not configure it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from plugins.contract import Factory, Provider, ProviderOptions

GROUP = "aipasta.plugins"

BUILT_IN = (
    ("openai_compatible", "plugins.openai_compatible:OpenAICompatible"),
    ("openrouter", "plugins.openrouter:OpenRouter"),
    ("huggingface", "plugins.huggingface:HuggingFace"),
    ("demo", "plugins.demo:Demo"),
)

# What the body of somebody's module, or the call of somebody's factory, raises when it is wrong.
BROKEN = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

MEMBERS = tuple(name for name in vars(Provider) if not name.startswith("_"))


class PluginError(ValueError):
    """A plugin that is unknown, twice there, broken, or wrongly configured."""


@dataclass(frozen=True, slots=True)
class LazyFactory:
    """A plugin's factory, which is imported when it is first needed."""

    entry_point: EntryPoint

    def __call__(self, options: ProviderOptions) -> Provider:
        """Import the factory, make the provider, and refuse what is none."""
        label = f"plugin {self.entry_point.name!r} ({self.entry_point.value})"
        try:
            factory = self.entry_point.load()
        except BROKEN as error:
            raise PluginError(f"{label} cannot be imported: {error}") from error
        try:
            provider: Provider = factory(options)
        except BROKEN as error:
            raise PluginError(f"provider {options.name!r}: {label} refuses its options: {error}") from error
        # A class passes for its instances: it has every attribute. A factory must not return one.
        if isinstance(provider, type):
            raise PluginError(f"{label} made no provider, but {type(provider).__name__}")
        if missing := [each for each in MEMBERS if not _has(provider, each)]:
            kind = type(provider).__name__
            raise PluginError(f"{label} made no provider, but {kind}, which lacks {', '.join(missing)}")
        if provider.name != options.name:
            raise PluginError(f"{label} named its provider {provider.name!r} instead of {options.name!r}")
        return provider


def available(third_party: Iterable[EntryPoint] | None = None) -> Mapping[str, Factory]:
    """List the factories by plugin name; raise `PluginError` where two plugins claim one."""
    installed = entry_points(group=GROUP) if third_party is None else third_party
    ours = [EntryPoint(name, value, GROUP) for name, value in BUILT_IN]
    found: dict[str, EntryPoint] = {}
    for entry_point in (*ours, *installed):
        known = found.setdefault(entry_point.name, entry_point)
        if known.value != entry_point.value:
            raise PluginError(
                f"plugin {entry_point.name!r} is there twice: {known.value} and {entry_point.value}"
            )
    return {name: LazyFactory(entry_point) for name, entry_point in found.items()}


def load(
    providers: Iterable[tuple[str, ProviderOptions]], factories: Mapping[str, Factory] | None = None
) -> dict[str, Provider]:
    """Make the configured providers, each given as its plugin's name and its options, by provider name."""
    known = available() if factories is None else factories
    made: dict[str, Provider] = {}
    for plugin, options in providers:
        if plugin not in known:
            raise PluginError(
                f"provider {options.name!r}: no plugin {plugin!r}; there are {', '.join(sorted(known))}"
            )
        if options.name in made:
            raise PluginError(f"provider {options.name!r} is configured twice")
        made[options.name] = known[plugin](options)
    return made


def _has(provider: object, member: str) -> bool:
    """Say whether a provider has a member of its own; what a subclass of the protocol inherits answers nothing."""
    return hasattr(provider, member) and getattr(type(provider), member, None) is not vars(Provider)[member]
