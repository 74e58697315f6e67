"""Lessons: what can be shown by computing it. The topmost room; each lesson is a config that `launch.py` runs."""

from research.lessons.base import Lesson, Section

__all__ = ["Lesson", "Section"]
