"""Figures as SVG text: they need no script, and stand alone as a download."""
