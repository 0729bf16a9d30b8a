"""Kinds of files that are not read, and what each is turned into one by; without the packages that read them."""

from pathlib import Path

CSV = "to_csv('data.csv', index=False)"
PICTURES = (
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".raw",
    ".dng",
    ".cr2",
    ".nef",
    ".psd",
)

# Suffixes, what such a file is, and a line of Python that turns it into a file that is read; CSV in it is as above.
KINDS = (
    (
        ".xlsx .xls .xlsm .xlsb .ods",
        "a spreadsheet",
        "save its sheet as .csv there, or by pandas.read_excel(FILE).CSV",
    ),
    (".feather .arrow", "a Feather file", "pandas.read_feather(FILE).CSV"),
    (".orc", "an ORC file", "pandas.read_orc(FILE).CSV"),
    (".dta", "a file of Stata", "pandas.read_stata(FILE).CSV"),
    (".sav .zsav .por", "a file of SPSS", "pandas.read_spss(FILE).CSV"),
    (".sas7bdat .xpt", "a file of SAS", "pandas.read_sas(FILE).CSV"),
    (
        ".rds .rda .rdata",
        "a file of R",
        "write.csv(readRDS(FILE), 'data.csv', row.names = FALSE) in R",
    ),
    (
        ".mat",
        "a file of MATLAB",
        "numpy.save('data.npy', scipy.io.loadmat(FILE)['NAME'])",
    ),
    (
        ".h5 .hdf5 .hdf",
        "an HDF5 file",
        "numpy.save('data.npy', h5py.File(FILE)['NAME'][:])",
    ),
    (
        ".nc .nc4 .cdf",
        "a NetCDF file",
        "numpy.save('data.npy', xarray.open_dataset(FILE)['NAME'].values)",
    ),
    (".zarr", "a Zarr store", "numpy.save('data.npy', zarr.open(FILE)[:])"),
    (
        ".pt .pth",
        "a file of PyTorch",
        "numpy.save('data.npy', torch.load(FILE, weights_only=True).numpy())",
    ),
    (
        ".safetensors",
        "a file of tensors",
        "numpy.save('data.npy', safetensors.numpy.load_file(FILE)['NAME'])",
    ),
    (
        ".pkl .pickle .joblib",
        "a pickle, which could run any code when it is opened",
        "save its numbers by numpy.save",
    ),
    (".json .jsonl .ndjson", "a JSON file", "pandas.read_json(FILE).CSV"),
    (".xml", "an XML file", "pandas.read_xml(FILE).CSV"),
    (
        ".db .sqlite .sqlite3",
        "a database",
        "pandas.read_sql('select * from NAME', CONNECTION).CSV",
    ),
    (
        ".arff",
        "a file of Weka",
        "pandas.DataFrame(scipy.io.arff.loadarff(FILE)[0]).CSV",
    ),
    (
        ".fits .fit",
        "a FITS file",
        "numpy.save('data.npy', astropy.io.fits.getdata(FILE))",
    ),
    (
        ".nii .mgz",
        "a brain image",
        "numpy.save('data.npy', nibabel.load(FILE).get_fdata())",
    ),
    (
        ".dcm",
        "a DICOM image",
        "numpy.save('data.npy', pydicom.dcmread(FILE).pixel_array)",
    ),
    (
        ".wav .flac .mp3 .ogg",
        "a sound",
        "cut it into windows of one length, and numpy.save an array (N, length)",
    ),
    (
        ".mp4 .avi .mov .mkv .webm",
        "a film",
        "save its frames as .png files in a folder",
    ),
    (".tar .tgz .7z .rar", "an archive", "unpack it, and name what is inside"),
    (
        ".mtx",
        "a sparse matrix",
        "scipy.sparse.save_npz('data.npz', scipy.io.mmread(FILE).tocsr())",
    ),
    (".loom", "a loom file", "anndata.read_loom(FILE).write('data.h5ad')"),
    (".doc .docx .pdf .rtf", "a document", "save its table as .csv"),
    (
        " ".join(PICTURES),
        "an image of a kind that is not read",
        "save it as .png, in a folder of such images",
    ),
)
WAYS = {
    suffix: (what, way.replace("CSV", CSV))
    for suffixes, what, way in KINDS
    for suffix in suffixes.split()
}


def way_in(path: Path) -> str | None:
    """How a file of a kind that is not read becomes one that is, as the end of a sentence; `None` for other kinds."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    known = next((s for s in reversed(suffixes) if s in WAYS), None)
    if known is None:
        return None
    what, way = WAYS[known]
    return f"is {what}, which is not read: {way.replace('FILE', repr(str(path)))}"


def pictures_among(names: list[str]) -> str:
    """A hint about images of kinds that are not read; empty where there are none."""
    suffixes = sorted({Path(name).suffix.lower() for name in names} & {*PICTURES})
    return f"; save its {', '.join(suffixes)} files as .png" if suffixes else ""
