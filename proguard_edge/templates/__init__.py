"""Prompt templates that ship with the package."""
