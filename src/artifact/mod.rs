//! The room `artifact`: see ARCHITECTURE.md.
