"""One question to a model behind dmap: as the answer is made, or all at once.  Ctrl-C stops the model."""

import argparse
import os
import sys

from client import Client, TooLong, new_trace
from openai import APIConnectionError, APIError, APIStatusError


def main() -> int:
    """Print the answer to standard output, and what went wrong to standard error."""
    asked, trace = _arguments(), new_trace()
    url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = Client(url, os.environ.get("OPENAI_API_KEY", "none"))
    try:
        speak(client, asked, trace)
    except TooLong as error:
        return _complain(str(error))
    except APIStatusError as error:  # refused, before anything was answered
        return _complain(
            f"{error.status_code} {error.code}: {error.message} ({error.request_id}, trace {trace})"
        )
    except APIConnectionError as error:
        return _complain(f"no answer from {url}: {error} (trace {trace})")
    except APIError as error:  # told inside the stream
        return _complain(f"the answer broke off: {error.message} (trace {trace})")
    except KeyboardInterrupt:
        return 130
    return 0


def speak(client: Client, asked: argparse.Namespace, trace: str) -> None:
    """Print the answer, each piece as it comes unless all of it was asked for."""
    if asked.whole:
        print(client.whole(asked.model, asked.prompt, trace))
        return
    for piece in client.stream(asked.model, asked.prompt, trace):
        print(piece, end="", flush=True)
    print()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of GET /v1/models, or an alias")
    parser.add_argument("--whole", action="store_true", help="the answer at once")
    parser.add_argument("prompt")
    return parser.parse_args()


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
