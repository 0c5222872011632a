"""Starts the simulated upstreams by hand and prints where they listen: `python -m tests.upstreams`."""

import argparse
import asyncio

from tests.upstreams import HuggingFace, OpenAICompatible, OpenRouter, serving


async def serve(openrouter_port: int, huggingface_port: int, compatible_port: int) -> None:
    openrouter = OpenRouter(port=openrouter_port)
    huggingface = HuggingFace(port=huggingface_port)
    compatible = OpenAICompatible(port=compatible_port)
    async with serving(openrouter, huggingface, compatible):
        print(f"OPENROUTER_BASE_URL={openrouter.base_url} OPENROUTER_API_KEY=sk-or-v1-simulated")  # noqa: T201
        print(f"HUGGINGFACE_BASE_URL={huggingface.base_url} HUGGINGFACE_API_KEY=hf_simulated")  # noqa: T201
        print(f"OpenAI-compatible: {compatible.base_url}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstreams", description=__doc__)
    parser.add_argument("--openrouter-port", type=int, default=5101)
    parser.add_argument("--huggingface-port", type=int, default=5102)
    parser.add_argument("--compatible-port", type=int, default=5103)
    ports = parser.parse_args()
    try:
        asyncio.run(serve(ports.openrouter_port, ports.huggingface_port, ports.compatible_port))
    except KeyboardInterrupt:
        print("stopped")  # noqa: T201


if __name__ == "__main__":
    main()
