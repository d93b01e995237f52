//! The room `train`: see ARCHITECTURE.md.
