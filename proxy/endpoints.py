"""The providers that are on, each with its plugin, its keys and its transport."""

from __future__ import annotations

from plugins import registry
from plugins.contract import ProviderOptions
from proxy.clock import Clock
from proxy.relay import Endpoint
from proxy.settings import Settings
from proxy.transport import transport_for


def endpoints(settings: Settings, clock: Clock) -> dict[str, Endpoint]:
    """Return every provider that is on, by its name; must be called on the running loop."""
    enabled = settings.enabled_providers()
    plugins = registry.load(
        (provider.plugin, ProviderOptions(name, provider.app_url, provider.app_title, provider.options))
        for name, provider in enabled.items()
    )
    return {
        name: Endpoint(
            plugin,
            enabled[name].base_url,
            settings.provider_keys.get(name, ()),
            enabled[name].timeouts,
            transport_for(plugin, clock, connections=settings.limits.concurrent_requests),
        )
        for name, plugin in plugins.items()
    }
