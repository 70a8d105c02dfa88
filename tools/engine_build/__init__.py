"""Builds Sippet's own llama.cpp WebAssembly engine from pinned sources. `tools/build_engine.py` is the command."""
