"""The one extension module. Everything else is in pyproject.toml."""

from setuptools import Extension, setup

SOURCES = ["_plane.pyx", "libraries.c", "plain.c", "producer.c", "reader.c"]

setup(
    ext_modules=[
        Extension(
            "cdc_outbox_native._plane",
            [f"src/{name}" for name in SOURCES],
            include_dirs=["src"],
            depends=[f"src/{name}.h" for name in ("libraries", "plain", "producer", "reader")],
            extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter"],
            libraries=["dl"] if __import__("sys").platform == "linux" else [],
        )
    ]
)
