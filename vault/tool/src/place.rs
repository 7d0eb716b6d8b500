use std::path::Path;

use holdfast_vault_engine::{S3, S3Addressing, S3Credentials, S3Transport, Storage, VaultError};

use crate::args::S3Options;

/// Where a vault is, as the user called it.
pub(crate) struct Place {
    pub(crate) vault: String,
    pub(crate) s3: S3Options,
    /// Nothing else changes the vault's keys at this time.
    pub(crate) alone: bool,
}

/// How the vault is reached by whoever has nothing but a page: from any folder, in another environment.
pub(crate) struct Directions {
    pub(crate) vault: String,
    /// What a shell takes between the program's name and what is to be done.
    pub(crate) arguments: String,
    /// What has to be there besides.
    pub(crate) needed: String,
}

impl Place {
    /// Opens the storage: a directory, or a bucket as the options say.
    pub(crate) fn storage(&self) -> Result<Storage, VaultError> {
        match self.s3()? {
            Some(s3) => Storage::s3(&s3),
            None => Storage::directory(Path::new(&self.vault)),
        }
    }

    pub(crate) fn directions(&self) -> Result<Directions, VaultError> {
        let Some(s3) = self.s3()? else {
            let vault = absolute(Path::new(&self.vault))?;
            return Ok(Directions {
                arguments: format!("--vault {}", quoted(&vault)),
                vault,
                needed: "Bring the vault to where it was, or write where it is into the lines below."
                    .to_owned(),
            });
        };
        let s3 = s3.resolved();
        let vault = s3.location.to_string();
        let mut arguments = format!("--vault {}", quoted(&vault));
        let mut needed = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment to a key that may list and read the \
                          bucket: it is not on this page."
            .to_owned();
        let mut say = |option: &str, value: &str| {
            arguments.push_str(&format!(" {option} {}", quoted(value)));
        };
        if let Some(endpoint) = &s3.endpoint {
            say("--s3-endpoint", endpoint);
        }
        if let Some(region) = &s3.region {
            say("--s3-region", region);
        }
        if let Some(file) = &s3.ca_file {
            let file = absolute(file)?;
            say("--s3-ca-file", &file);
            needed.push_str(&format!(" {file} is the server's authority: keep a copy of it with this page."));
        }
        if s3.addressing == S3Addressing::VirtualHost {
            arguments.push_str(" --s3-virtual-host");
        }
        if s3.transport == S3Transport::PlainAllowed {
            arguments.push_str(" --s3-allow-http");
        }
        Ok(Directions { vault, arguments, needed })
    }

    /// `None` for a directory.
    fn s3(&self) -> Result<Option<S3>, VaultError> {
        if !self.vault.starts_with("s3://") {
            return Ok(None);
        }
        let options = &self.s3;
        let mut s3 = S3::at(self.vault.parse()?);
        s3.endpoint.clone_from(&options.s3_endpoint);
        s3.region.clone_from(&options.s3_region);
        s3.ca_file.clone_from(&options.s3_ca_file);
        if options.s3_virtual_host {
            s3.addressing = S3Addressing::VirtualHost;
        }
        if options.s3_allow_http {
            s3.transport = S3Transport::PlainAllowed;
        }
        if let (Some(access_key_id), Some(secret_access_key)) =
            (options.s3_access_key_id_file.clone(), options.s3_secret_access_key_file.clone())
        {
            s3.credentials = S3Credentials::Files { access_key_id, secret_access_key };
        }
        Ok(Some(s3))
    }
}

fn absolute(path: &Path) -> Result<String, VaultError> {
    let failed = |source| VaultError::Directory { path: path.display().to_string(), source };
    std::path::absolute(path).map(|path| path.display().to_string()).map_err(failed)
}

/// What a shell reads as this one word.
fn quoted(word: &str) -> String {
    let is_plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_./:@%+=,".contains(symbol);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
