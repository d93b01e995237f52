//! Requests to the admin API.
#![no_main]

millstream_fuzz::target!(admin_request);
