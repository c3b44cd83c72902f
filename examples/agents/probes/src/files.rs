//! Reading and writing what was granted, or trying to.

use std::fs;
use std::io::{self, Read};

const CHUNK: usize = 64 * 1024;

pub(crate) fn read_stdin() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        match input.read(&mut chunk)? {
            0 => break,
            read => total = total.saturating_add(read as u64),
        }
    }
    println!("{total} bytes");
    Ok(())
}

pub(crate) fn ls(path: &str) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    for name in names {
        println!("{name}");
    }
    Ok(())
}

pub(crate) fn cat(path: &str) -> io::Result<()> {
    io::copy(&mut fs::File::open(path)?, &mut io::stdout().lock())?;
    Ok(())
}

pub(crate) fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    println!("wrote {} bytes", text.len());
    Ok(())
}
