"""Simulated upstreams on real sockets: judges that import nothing of the project and keep their own books."""

from tests.upstreams.answer import echo
from tests.upstreams.behaviour import Behaviour, ToolCall
from tests.upstreams.books import Books, Entry
from tests.upstreams.failure import Failure
from tests.upstreams.free_limits import FreeLimits
from tests.upstreams.huggingface import HuggingFace
from tests.upstreams.openai_compatible import OpenAICompatible
from tests.upstreams.openrouter import OpenRouter
from tests.upstreams.script import Script
from tests.upstreams.server import SimulatedUpstream, serving

__all__ = [
    "Behaviour",
    "Books",
    "Entry",
    "Failure",
    "FreeLimits",
    "HuggingFace",
    "OpenAICompatible",
    "OpenRouter",
    "Script",
    "SimulatedUpstream",
    "ToolCall",
    "echo",
    "serving",
]
