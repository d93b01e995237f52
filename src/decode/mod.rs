//! The room `decode`: see ARCHITECTURE.md.
