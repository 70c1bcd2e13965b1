//! Compiles mlx-c and our own C++ beside it into static archives.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Sources, wheel};
use crate::process;

/// Changes whenever the way of compiling or the bindings' options change, so that caches do not outlive it.
const RECIPE: &str = "1";

/// The C++ compiler and what it lacks.
pub(crate) struct Compiler {
    build: cc::Build,
    version: String,
    /// GCC before 13 has no `<format>`, which mlx-c uses.
    lacks_format: bool,
}

impl Compiler {
    /// Finds the C++ compiler that the `cc` crate would use (`CXX` is honoured).
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn find(sources: &Sources) -> Result<Self> {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .cargo_metadata(false)
            .cargo_warnings(false)
            .warnings(false);
        build
            .target(&sources.triple)
            .host(&sources.triple)
            .opt_level(2)
            .debug(false)
            .pic(true)
            .std("c++20");
        let tool = build.try_get_compiler().context("no C++ compiler: install g++")?;
        let version = process::output(tool.to_command().arg("--version")).context("no C++ compiler: install g++")?;
        let probe = sources.workspace.join("xtask/native/format_probe.cpp");
        let lacks_format = !process::succeeds(tool.to_command().arg("-fsyntax-only").arg(probe));
        Ok(Self {
            build,
            version,
            lacks_format,
        })
    }

    fn command(&self, sources: &Sources) -> Result<Command> {
        let mut command = self.build.try_get_compiler()?.to_command();
        if self.lacks_format {
            command.arg("-I").arg(sources.workspace.join("xtask/native/compat"));
        }
        command
            .args(["-include", "format", "-I"])
            .arg(&sources.mlx_c)
            .arg("-I")
            .arg(&sources.mlx_include);
        Ok(command)
    }
}

/// Returns a digest of everything that the archives and the bindings are made from.
///
/// # Errors
/// When a source cannot be read.
pub(crate) fn digest(sources: &Sources, compiler: &Compiler) -> Result<String> {
    let mut hash = Sha256::new();
    for word in [RECIPE, wheel::VERSION, &sources.triple, &compiler.version] {
        hash.update(word);
        hash.update([0]);
    }
    let folder = sources.mlx_c.join("mlx/c");
    let mut files = [
        list(&folder, "cpp")?,
        list(&folder, "h")?,
        list(&folder.join("private"), "h")?,
    ]
    .concat();
    files.extend(own_files(sources)?);
    files.push(sources.workspace.join("xtask/native/compat/format"));
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        hash.update(Sha256::digest(content));
    }
    Ok(format!("{:x}", hash.finalize())[..16].to_owned())
}

/// Compiles `libmlxc.a` and `libkr_native.a` into `folder`, on all cores, with a line per file.
///
/// # Errors
/// When a file does not compile; the error carries the compiler's words.
pub(crate) fn compile(sources: &Sources, compiler: &Compiler, folder: &Path) -> Result<()> {
    let upstream = list(&sources.mlx_c.join("mlx/c"), "cpp")?;
    let own = own_files(sources)?;
    let all: Vec<&PathBuf> = upstream.iter().chain(&own).collect();
    let objects = compile_all(sources, compiler, &all, folder)?;
    let (upstream, own) = objects.split_at(upstream.len());
    archive(&folder.join("libmlxc.a"), upstream, compiler)?;
    archive(&folder.join("libkr_native.a"), own, compiler)?;
    for object in &objects {
        fs::remove_file(object).with_context(|| format!("cannot remove {}", object.display()))?;
    }
    Ok(())
}

fn compile_all(sources: &Sources, compiler: &Compiler, files: &[&PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    let object = |index: usize| folder.join(format!("{index}.o"));
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some((index, file)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, files.get(at)?)))
        {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("MLX: compiling {:>2}/{} {name}", index + 1, files.len());
            let compiled = compiler
                .command(sources)
                .and_then(|mut command| process::output(command.arg("-c").arg(file).arg("-o").arg(object(index))));
            if let Err(error) = compiled {
                next.store(files.len(), Ordering::Relaxed);
                failure
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok((0..files.len()).map(object).collect()),
    }
}

fn archive(file: &Path, objects: &[PathBuf], compiler: &Compiler) -> Result<()> {
    let mut archiver = compiler
        .build
        .try_get_archiver()
        .context("no archiver: install binutils")?;
    process::output(archiver.arg("crs").arg(file).args(objects)).map(drop)
}

/// The C++ files of our own crates: every `shared/<crate>/native/*.cpp`.
fn own_files(sources: &Sources) -> Result<Vec<PathBuf>> {
    let shared = sources.workspace.join("shared");
    let crates = fs::read_dir(&shared).with_context(|| format!("cannot list {}", shared.display()))?;
    let folders = crates.filter_map(|entry| entry.ok().map(|entry| entry.path().join("native")));
    let mut folders: Vec<_> = folders.filter(|folder| folder.is_dir()).collect();
    folders.sort();
    let lists = folders
        .iter()
        .map(|folder| list(folder, "cpp"))
        .collect::<Result<Vec<_>>>()?;
    Ok(lists.concat())
}

fn list(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.retain(|file| file.extension() == Some(OsStr::new(extension)));
    files.sort();
    Ok(files)
}
