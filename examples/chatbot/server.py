"""The page, and the answers that it asks for.

``POST /ask`` takes ``{"question": "...", "temperature": 0.0}`` as JSON and answers in lines of
JSON, each sent when it is known: the words of the question, each word of the answer with the
attention to them, and at the end the most probable answers.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import uvicorn
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import RateLimit
from .talker import Question, Talker

PAGE = Path(__file__).with_name("page")

#: Characters of a question, bytes of a request, and the highest temperature.
LONGEST = 200
MOST_BYTES = 4096
HOTTEST = 2.0
#: Seconds that a client has to send its question.
PATIENCE = 10.0

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that gets no answer: a status, and a message for the user."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class _Headers:
    """Middleware that adds the headers of safety to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def make_app(
    talker: Talker,
    *,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    rate: float = 5.0,
    burst: int = 150,
    threads: int = 2,
    seed: int | None = None,
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    talker : Talker
    hosts : tuple of str
        Names that a request may call the server by, so that no other site can be pointed at it.
    rate : float
        Questions that an address may ask in a second, on average.
    burst : int
        Questions that an address may ask at once.
    threads : int
        How many answers are worked on at the same time.
    seed : int, optional
        Of the sampled answers, for tests.
    """
    limit = RateLimit(rate, burst)
    workers = anyio.CapacityLimiter(threads)

    async def ask(request: Request) -> Response:
        wait = limit.wait(request.client.host if request.client else "")
        if wait:
            message = f"That was too fast. Please try again in {wait} s."
            raise Refused(429, message, {"Retry-After": str(wait)})
        text, temperature = _checked(await _body(request))
        try:
            question = await run_sync(talker.read, text, limiter=workers)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        rng = np.random.default_rng(seed)
        lines = _lines(talker, question, temperature, rng)
        return StreamingResponse(_sent(lines, workers), media_type="application/x-ndjson")

    async def about(request: Request) -> Response:
        return JSONResponse({**talker.about, "longest": LONGEST, "hottest": HOTTEST})

    async def refused(request: Request, error: Exception) -> Response:
        if not isinstance(error, Refused):
            raise error
        return JSONResponse({"error": error.message}, error.status, error.headers)

    def file(name: str, kind: str) -> Any:
        async def send(request: Request) -> Response:
            return FileResponse(PAGE / name, media_type=kind)

        return send

    return Starlette(
        routes=[
            Route("/", file("index.html", "text/html")),
            Route("/chat.css", file("chat.css", "text/css")),
            Route("/chat.js", file("chat.js", "text/javascript")),
            Route("/icon.svg", file("icon.svg", "image/svg+xml")),
            Route("/about", about),
            Route("/ask", ask, methods=["POST"]),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={Refused: refused},
    )


async def _body(request: Request) -> Any:
    """Read a request as JSON; give up where it is too long or too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "A question must come as application/json.")
    data = b""
    with anyio.move_on_after(PATIENCE) as scope:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MOST_BYTES:
                raise Refused(413, f"A request must have at most {MOST_BYTES} bytes.")
    if scope.cancelled_caught:
        raise Refused(408, "The request took too long.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The request is not valid JSON.") from error


def _checked(content: Any) -> tuple[str, float]:
    """The question and the temperature of a request."""
    if not isinstance(content, dict):
        raise Refused(400, "A request must be an object with a `question`.")
    text, temperature = content.get("question"), content.get("temperature", 0)
    if not isinstance(text, str):
        raise Refused(422, "`question` must be a text.")
    if len(text) > LONGEST:
        raise Refused(
            422, f"A question must have at most {LONGEST} characters. Received: {len(text)}"
        )
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not numeric or not 0 <= temperature <= HOTTEST:  # NaN is not either
        raise Refused(422, f"`temperature` must be a number in [0, {HOTTEST:g}].")
    return text, float(temperature)


def _lines(
    talker: Talker, question: Question, temperature: float, rng: Any
) -> Iterator[dict[str, Any]]:
    """What is sent, line by line."""
    yield {"words": question.words, "known": question.known}
    numbers: list[int] = []
    for word in talker.stream(question, temperature, rng):
        numbers.append(word.number)
        yield {
            "word": talker.pieces(numbers)[-1],
            "probability": round(word.probability, 4),
            "attention": [round(float(a), 4) for a in word.attention],
        }
    best = [
        {"text": answer.text, "probability": answer.probability} for answer in talker.beam(question)
    ]
    yield {"answer": talker.written(numbers), "best": best}


async def _sent(
    lines: Iterator[dict[str, Any]], workers: anyio.CapacityLimiter
) -> AsyncIterator[bytes]:
    """The lines as bytes, each computed by a worker thread, in turn with those of others."""
    while (line := await run_sync(next, lines, None, limiter=workers)) is not None:
        yield json.dumps(line).encode() + b"\n"


class Server(uvicorn.Server):
    """The server, made ready to be run, by `run`, until Ctrl-C.

    Parameters
    ----------
    app : ASGIApp
    host : str
    port : int
        0 for any that is free.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 8000) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_level="warning",
                server_header=False,
                lifespan="off",
                ws="none",
                backlog=256,
                limit_concurrency=500,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
            )
        )

    @property
    def url(self) -> str:
        """The address of the page, once the server has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if self.started:
            print(f"Talk to it at {self.url} and stop it with Ctrl-C.", flush=True)
