"""Families of fixtures, one file each; tests/conftest.py lists them."""
