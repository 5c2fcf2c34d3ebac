//! Offload entries as the control plane makes them: generations, heads with slots, runs of files. Converts only.

use std::borrow::Cow;
use std::sync::Arc;

use blobdev::bhttp::Part;
use blobdev::vsp::files::{File, Files, Run};
use blobdev::vsp::offload::entry::{Bytes, Content, Heads};
use blobdev::vsp::offload::generation::Generation as Inner;
use blobdev::vsp::offload::parts::Parts as Places;
use blobdev::vsp::offload::template::{Slot, Template, Value};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::codec::{latin1, line};
use crate::descriptors::borrow;

/// A sequence lock in the host's memory that offload entries are checked against.
#[pyclass(frozen, weakref, module = "pvblob._native")]
pub(crate) struct Generation(pub(crate) Arc<Inner>);

#[pymethods]
impl Generation {
    #[new]
    fn new() -> Self {
        Self(Arc::new(Inner::new()))
    }

    #[getter]
    fn value(&self) -> u64 {
        self.0.value()
    }

    fn begin(&self) {
        self.0.begin();
    }

    fn end(&self, py: Python<'_>) {
        py.detach(|| self.0.end());
    }
}

/// The parts of one version of a blob that are here, shared by all of its entries.
#[pyclass(frozen, weakref, module = "pvblob._native")]
pub(crate) struct Parts {
    places: Arc<Places<Arc<File>>>,
    files: Files,
}

#[pymethods]
impl Parts {
    #[new]
    fn new(size_bytes: u64, part_bytes: u64) -> PyResult<Self> {
        let places = Places::new(size_bytes, part_bytes);
        let places = places.ok_or_else(|| PyValueError::new_err("parts are of one byte or more, and not too many"))?;
        Ok(Self { places: Arc::new(places), files: Files::default() })
    }

    #[pyo3(signature = (number, fd, *, untold=false))]
    fn put(&self, py: Python<'_>, number: usize, fd: i32, untold: bool) -> PyResult<()> {
        let file = borrow(fd, |fd| self.files.open(fd))??;
        if !py.detach(|| self.places.put(number, file, untold)) {
            return Err(PyValueError::new_err(format!("there is no part {number}")));
        }
        Ok(())
    }

    fn remove(&self, py: Python<'_>, number: usize) {
        py.detach(|| self.places.remove(number));
    }

    fn take_uses(&self, number: usize) -> u64 {
        self.places.take_uses(number)
    }
}

/// The slots, in the order of `http.Slot`.
const SLOTS: [Slot; 7] =
    [Slot::Length, Slot::Date, Slot::RequestId, Slot::Version, Slot::ClientRequestId, Slot::Range, Slot::Placed];

/// The value of a line: text, or the number of a slot.
#[derive(FromPyObject)]
pub(crate) enum LineValue {
    Text(PyBackedStr),
    Slot(usize),
}

/// A head: status and lines.
pub(crate) type Head = (u16, Vec<(PyBackedStr, LineValue)>);

type Line<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>, Option<Slot>);

fn template((status, lines): &Head) -> PyResult<Template> {
    let lines: Vec<Line<'_>> =
        lines.iter().enumerate().map(|(index, line)| convert(index, line)).collect::<PyResult<_>>()?;
    let values = lines.iter().map(|(name, text, slot)| (&**name, slot.map_or(Value::Fixed(text), Value::Slot)));
    let made = Template::new(*status, values);
    made.ok_or_else(|| {
        PyValueError::new_err("an offload entry's head has an illegal field, too many, or too long ones")
    })
}

fn convert(index: usize, (name, value): &(PyBackedStr, LineValue)) -> PyResult<Line<'_>> {
    match value {
        LineValue::Text(text) => line(Part::Field(index), name, text).map(|(name, text)| (name, text, None)),
        LineValue::Slot(number) => {
            let unknown = || PyValueError::new_err(format!("there is no slot {number}"));
            let slot = *SLOTS.get(*number).ok_or_else(unknown)?;
            line(Part::Field(index), name, "").map(|(name, text)| (name, text, Some(slot)))
        }
    }
}

/// What an entry answers with.
#[derive(FromPyObject)]
pub(crate) struct Offer {
    etag: PyBackedStr,
    version: PyBackedStr,
    whole: Head,
    part: Head,
    head: Head,
    not_modified: Option<Head>,
    generations: Vec<(Py<Generation>, u64)>,
    extents: Vec<(i32, u64, u64)>,
    parts: Option<Py<Parts>>,
}

impl Offer {
    pub(crate) fn generations(&self) -> Vec<(Arc<Inner>, u64)> {
        self.generations.iter().map(|(generation, value)| (Arc::clone(&generation.get().0), *value)).collect()
    }

    pub(crate) fn content(&self, files: &Files) -> PyResult<Content> {
        Ok(Content {
            bytes: match &self.parts {
                Some(parts) => Bytes::Parts(Arc::clone(&parts.get().places)),
                None => Bytes::Whole(runs(&self.extents, files)?),
            },
            etag: latin1(&self.etag, "etag")?.into_owned(),
            version: latin1(&self.version, "version")?.into_owned(),
            heads: Heads {
                whole: template(&self.whole)?,
                part: template(&self.part)?,
                head: template(&self.head)?,
                not_modified: self.not_modified.as_ref().map(template).transpose()?,
            },
        })
    }
}

/// Opens the files of (fd, offset, length) runs; runs that continue each other become one.
pub(crate) fn runs(extents: &[(i32, u64, u64)], files: &Files) -> PyResult<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::with_capacity(extents.len());
    let mut last = None;
    for &(fd, offset, length) in extents {
        if let Some(run) = runs.last_mut()
            && last == Some((fd, offset))
        {
            run.length += length;
        } else {
            runs.push(Run { file: borrow(fd, |fd| files.open(fd))??, offset, length });
        }
        last = Some((fd, offset + length));
    }
    Ok(runs)
}
