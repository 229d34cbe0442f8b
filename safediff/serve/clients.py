"""What clients do to a server: they send too much, they go away, they wait for what never comes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")


class BodyLimit:
    """Answers 413 once a body has more bytes than that, whatever length it was said to have.

    And 408 where it has not come as a whole within ``timeout_s``: a server that stops would wait.

    Starlette 1.6 has a middleware for it, whose answer is plain text; this one's goes the way of
    every other error.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app, self.max_bytes, self.timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        num_bytes, complete = 0, False
        late_at = asyncio.get_running_loop().time() + self.timeout_s

        async def limited() -> Message:
            nonlocal num_bytes, complete
            if complete:  # what comes now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(late_at):
                    message = await receive()
            except TimeoutError as late:
                late_s = f"body: did not come within {self.timeout_s:g} s"
                raise HTTPException(408, late_s, {"Connection": "close"}) from late
            complete = not message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise HTTPException(413, f"body: at most {self.max_bytes} bytes are read")
            return message

        await self.app(scope, limited, send)


class CancelledAnswer:
    """Answers what the server cancels: requests that are not done when the time to drain is over.

    The outermost middleware, since all others have been cancelled, too.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request], Response]) -> None:
        self.app, self.answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http" or started:
                raise
            await self.answer(Request(scope))(scope, receive, send)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for work as long as the client does; then the work is cancelled.

    Raises:
        ClientDisconnect: the client went away first.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Ends when the client goes away; the body was read, so nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
