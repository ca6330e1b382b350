"""The web page: four files of our own, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

FILES = Path(__file__).parent / "web"
router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """The page."""
    return FileResponse(FILES / "page.html", media_type="text/html; charset=utf-8")


@router.get("/page.css")
async def style() -> FileResponse:
    """Its style."""
    return FileResponse(FILES / "page.css", media_type="text/css; charset=utf-8")


@router.get("/page.js")
async def script() -> FileResponse:
    """Its behaviour."""
    return FileResponse(FILES / "page.js", media_type="text/javascript; charset=utf-8")


@router.get("/icon.svg")
async def icon() -> FileResponse:
    """Its icon."""
    return FileResponse(FILES / "icon.svg", media_type="image/svg+xml")
