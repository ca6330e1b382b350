"""The application: routes, middleware, and errors that are never an answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from proguard_edge import __version__
from proguard_edge.serve import batch, failures, moderations, page, status, verdicts
from proguard_edge.serve.http import refused
from proguard_edge.serve.middleware import BodyLimits, Gate, Headers
from proguard_edge.serve.moderator import Moderator
from proguard_edge.serve.settings import Settings


def create_app(settings: Settings, moderator: Moderator) -> FastAPI:
    """The ASGI application of a moderator that runs."""
    # The pages of documentation that FastAPI brings load their scripts from elsewhere.
    app = FastAPI(
        title="proguard-edge",
        version=__version__,
        description="Moderation of text and images on this machine.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.moderator = moderator
    for part in (moderations, verdicts, batch, status, page):
        app.include_router(part.router)
    app.add_middleware(BodyLimits, max_bytes=settings.max_body_bytes, seconds=settings.body_s)
    app.add_middleware(Gate, keys=settings.keys, hosts=settings.allowed_hosts)
    app.add_middleware(Headers)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)
    return app


async def _malformed(request: HttpRequest, error: Any) -> JSONResponse:
    """What is wrong; the content itself is not sent back."""
    found, where = failures.malformed(error.errors())
    return refused(request, found, where)


async def _http_error(request: HttpRequest, error: Any) -> JSONResponse:  # noqa: ARG001
    content = failures.body(error.status_code, "RequestError", str(error.detail))
    return JSONResponse(content, error.status_code, error.headers)


async def _unforeseen(request: HttpRequest, error: Exception) -> JSONResponse:
    request.app.state.moderator.metrics.error(type(error).__name__)
    return JSONResponse(
        failures.body(500, type(error).__name__, "unexpected error; nothing was decided"), 500
    )
