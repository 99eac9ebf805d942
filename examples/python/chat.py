"""One question to a model behind dmap, by OpenAI's own client; the answer comes as it is made."""

import argparse
import os
import sys

from openai import APIConnectionError, APIError, APIStatusError, OpenAI

TRY_S = 120
"""How long a try may take to begin; dmap keeps a stream that waits for its model alive."""
RETRIES = 3
"""Tries after the first, for 429 and 5xx; `Retry-After` and `x-should-retry` are obeyed by the client."""


def main() -> int:
    """Print the answer to standard output, and what went wrong to standard error."""
    asked = _arguments()
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        timeout=TRY_S,
        max_retries=RETRIES,
    )
    try:
        speak(client, asked.model, asked.prompt)
    except APIStatusError as error:  # refused, before anything was answered
        return _complain(f"{error.status_code} {error.code}: {error.message} ({error.request_id})")
    except APIConnectionError as error:
        return _complain(f"no connection to {client.base_url}: {error}")
    except APIError as error:  # told inside the stream
        return _complain(f"the answer broke off: {error.message}")
    except KeyboardInterrupt:
        return 130
    return 0


def speak(client: OpenAI, model: str, prompt: str) -> None:
    """Print each piece of the answer as it comes; leaving early stops the model."""
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
    print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of GET /v1/models, or an alias")
    parser.add_argument("prompt")
    return parser.parse_args()


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
