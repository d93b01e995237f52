//! The room `encode`: see ARCHITECTURE.md.
