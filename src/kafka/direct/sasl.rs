//! Logins: PLAIN and SCRAM (RFC 5802 and 7677), as exchanges of opaque messages.

use super::error::{Error, Result};
use super::settings::{Login, Mechanism};
use super::transport::random;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

/// A server that asks for more rounds than this wants our time, not a proof.
const ROUNDS_MAX: u32 = 1_000_000;
const ROUNDS_MIN: u32 = 4_096;

/// Logs in through `say`, which sends a message and returns the answer.
///
/// # Errors
/// `Config`, where the server can't prove that it knows the password, or asks for something odd; those of `say`.
pub(super) fn log_in(login: &Login, mut say: impl FnMut(&[u8]) -> Result<Vec<u8>>) -> Result<()> {
    let password = login.password.reveal();
    match login.mechanism {
        Mechanism::Plain => say(format!("\0{}\0{password}", login.user).as_bytes()).map(|_| ()),
        mechanism => {
            let nonce = STANDARD.encode(random::<24>()?);
            let (first, bare) = first_message(&login.user, &nonce);
            let answer = say(first.as_bytes())?;
            let server_first = std::str::from_utf8(&answer).map_err(|_| odd("its answer is no text"))?;
            let proof = match mechanism {
                Mechanism::Scram512 => prove::<Scram512>(password, &nonce, &bare, server_first)?,
                _ => prove::<Scram256>(password, &nonce, &bare, server_first)?,
            };
            let last = say(proof.message.as_bytes())?;
            let expected = format!("v={}", STANDARD.encode(&proof.server));
            // The broker's own proof. It is no secret of ours, so that the time of the comparison tells nothing.
            match last.split(|byte| *byte == b',').next() == Some(expected.as_bytes()) {
                true => Ok(()),
                false => Err(odd("it can't prove that it knows the password")),
            }
        }
    }
}

fn odd(what: &str) -> Error {
    Error::Config(format!("the broker's login can't be trusted: {what}"))
}

/// The first message, and the part of it that is signed.
fn first_message(user: &str, nonce: &str) -> (String, String) {
    let bare = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
    (format!("n,,{bare}"), bare)
}

/// The hash functions of a mechanism.
trait Functions {
    fn hash(bytes: &[u8]) -> Vec<u8>;
    fn mac(key: &[u8], bytes: &[u8]) -> Vec<u8>;
    fn stretch(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8>;
}

macro_rules! functions {
    ($name:ident, $hash:ty, $len:literal) => {
        struct $name;
        impl Functions for $name {
            fn hash(bytes: &[u8]) -> Vec<u8> {
                <$hash>::digest(bytes).to_vec()
            }
            fn mac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
                let mut mac = Hmac::<$hash>::new_from_slice(key).expect("a key of any length will do");
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
            fn stretch(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
                let mut out = vec![0; $len];
                pbkdf2::pbkdf2_hmac::<$hash>(password, salt, rounds, &mut out);
                out
            }
        }
    };
}

functions!(Scram256, Sha256, 32);
functions!(Scram512, Sha512, 64);

/// The client's last message, and what the server has to answer.
struct Proof {
    message: String,
    server: Vec<u8>,
}

fn prove<F: Functions>(password: &str, nonce: &str, bare: &str, server_first: &str) -> Result<Proof> {
    let field = |name: &str| {
        let found = server_first.split(',').find_map(|part| part.strip_prefix(name));
        found.ok_or_else(|| odd("a field is missing"))
    };
    let both = field("r=")?;
    let salt = STANDARD.decode(field("s=")?).map_err(|_| odd("its salt is not base64"))?;
    let rounds: u32 = field("i=")?.parse().map_err(|_| odd("its number of rounds"))?;
    if !both.starts_with(nonce) || both.len() == nonce.len() {
        return Err(odd("its nonce doesn't go on from ours"));
    }
    if !(ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds) {
        return Err(odd("its number of rounds"));
    }
    let salted = F::stretch(password.as_bytes(), &salt, rounds);
    let client_key = F::mac(&salted, b"Client Key");
    let ending = format!("c=biws,r={both}");
    let signed = format!("{bare},{server_first},{ending}");
    let signature = F::mac(&F::hash(&client_key), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
    let server = F::mac(&F::mac(&salted, b"Server Key"), signed.as_bytes());
    Ok(Proof { message: format!("{ending},p={}", STANDARD.encode(proof)), server })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::direct::settings::Secret;

    #[test]
    fn the_example_of_the_standard_comes_out() {
        // RFC 7677, section 3.
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let (first, bare) = first_message("user", nonce);
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = prove::<Scram256>("pencil", nonce, &bare, server).unwrap();
        assert!(proof.message.ends_with("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{}", proof.message);
        assert_eq!(STANDARD.encode(&proof.server), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_refused() {
        let login = Login { mechanism: Mechanism::Scram512, user: "a=b,c".into(), password: Secret::new("p") };
        let mut said = 0;
        let error = log_in(&login, |message| {
            said += 1;
            let text = String::from_utf8_lossy(message).into_owned();
            assert!(!text.contains("=p,"), "the password is never said");
            let nonce = text.split("r=").nth(1).unwrap_or_default();
            Ok(if said == 1 { format!("r={nonce}x,s=AAAA,i=4096").into_bytes() } else { b"v=AAAA".to_vec() })
        });
        assert!(error.unwrap_err().to_string().contains("prove"));
        for odd in
            ["", "r=other,s=AAAA,i=4096", "r=NONCEx,s=!,i=4096", "r=NONCEx,s=AAAA,i=1", "r=NONCEx,s=AAAA,i=9999999"]
        {
            assert!(prove::<Scram256>("p", "NONCE", "n=u,r=NONCE", odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn plain_says_user_and_password() {
        let login = Login { mechanism: Mechanism::Plain, user: "u".into(), password: Secret::new("p") };
        log_in(&login, |message| {
            assert_eq!(message, b"\0u\0p");
            Ok(Vec::new())
        })
        .unwrap();
    }
}
