//! The room `metrics`: see ARCHITECTURE.md.
