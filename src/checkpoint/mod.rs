//! The room `checkpoint`: see ARCHITECTURE.md.
