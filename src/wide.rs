//! One loop, compiled twice: for any x86-64 processor, and for those with AVX2, whose vectors are twice
//! as wide. Which one runs is decided when it runs.
//!
//! Both are the same Rust, element by element and in the same order; no fused multiply-add is ever
//! enabled. Addition, multiplication, division and the square root are exact to the last bit by IEEE 754
//! at any width, so the results are equal to the bit. Tests hold that with `narrowly`.

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// Whether the processor has what [`crate::wide!`] enables.
#[cfg(target_arch = "x86_64")]
static HAS: LazyLock<bool> = LazyLock::new(|| {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
});

/// At the end of a loop's turn that works on four neighbours by itself: keeps the compiler from taking four turns at
/// once, whose numbers it would have to shuffle about. Costs nothing.
#[inline(always)]
pub fn turn() {
    std::hint::black_box(());
}

/// Asks the processor to have this at hand soon. A hint: it changes nothing, and where it isn't known how, does nothing.
#[inline(always)]
pub fn prefetch<T>(soon: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(soon).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = soon;
}

/// True where the wide version may run.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn available() -> bool {
    #[cfg(test)]
    if NARROW.get() {
        return false;
    }
    *HAS
}

#[cfg(test)]
thread_local! {
    static NARROW: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// What `f` gives where no loop in it runs wide.
#[cfg(test)]
pub fn narrowly<T>(f: impl FnOnce() -> T) -> T {
    NARROW.set(true);
    let result = f();
    NARROW.set(false);
    result
}

/// Defines a function whose body is compiled twice; see [`mod@crate::wide`]. What the body calls must be
/// inlined to gain from it.
#[macro_export]
#[doc(hidden)]
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn same($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
                fn wide($($arg: $type),*) $(-> $result)? {
                    same($($arg),*)
                }
                if $crate::wide::available() {
                    // SAFETY: the processor has these features.
                    return unsafe { wide($($arg),*) };
                }
            }
            same($($arg),*)
        }
    };
}
