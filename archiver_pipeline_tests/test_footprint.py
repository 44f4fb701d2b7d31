"""What keeps a process's memory small, and what the environment may say against it."""

from archiver_pipeline.footprint import keep_footprint_small


def test_what_the_environment_says_holds():
    environ = {"ARROW_DEFAULT_MEMORY_POOL": "mimalloc", "MALLOC_ARENA_MAX": "8"}
    keep_footprint_small(environ)
    assert environ == {"ARROW_DEFAULT_MEMORY_POOL": "mimalloc", "MALLOC_ARENA_MAX": "8"}


def test_arrow_uses_the_allocator_of_the_system():
    import pyarrow as pa

    assert pa.default_memory_pool().backend_name == "system"
