"""Kinds of files that are not read, and what each is turned into one by; without the packages that read them."""

from pathlib import Path

CSV = "df.to_csv('data.csv', index=False)"
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

# By suffix: what the file is, and a line of Python that turns it into a file that is read.
WAYS = {
    **dict.fromkeys(
        (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"),
        (
            "a spreadsheet",
            f"save its sheet as .csv there, or by pandas.read_excel(FILE).{CSV[3:]}",
        ),
    ),
    **dict.fromkeys(
        (".feather", ".arrow"),
        ("a Feather file", f"pandas.read_feather(FILE).{CSV[3:]}"),
    ),
    ".orc": ("an ORC file", f"pandas.read_orc(FILE).{CSV[3:]}"),
    ".dta": ("a file of Stata", f"pandas.read_stata(FILE).{CSV[3:]}"),
    **dict.fromkeys(
        (".sav", ".zsav", ".por"),
        ("a file of SPSS", f"pandas.read_spss(FILE).{CSV[3:]}"),
    ),
    **dict.fromkeys(
        (".sas7bdat", ".xpt"), ("a file of SAS", f"pandas.read_sas(FILE).{CSV[3:]}")
    ),
    **dict.fromkeys(
        (".rds", ".rda", ".rdata"),
        ("a file of R", "write.csv(readRDS(FILE), 'data.csv', row.names = FALSE) in R"),
    ),
    ".mat": (
        "a file of MATLAB",
        "numpy.save('data.npy', scipy.io.loadmat(FILE)['NAME'])",
    ),
    **dict.fromkeys(
        (".h5", ".hdf5", ".hdf"),
        ("an HDF5 file", "numpy.save('data.npy', h5py.File(FILE)['NAME'][:])"),
    ),
    **dict.fromkeys(
        (".nc", ".nc4", ".cdf"),
        (
            "a NetCDF file",
            "numpy.save('data.npy', xarray.open_dataset(FILE)['NAME'].values)",
        ),
    ),
    ".zarr": ("a Zarr store", "numpy.save('data.npy', zarr.open(FILE)[:])"),
    **dict.fromkeys(
        (".pt", ".pth"),
        (
            "a file of PyTorch",
            "numpy.save('data.npy', torch.load(FILE, weights_only=True).numpy())",
        ),
    ),
    ".safetensors": (
        "a file of tensors",
        "numpy.save('data.npy', safetensors.numpy.load_file(FILE)['NAME'])",
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        (
            "a pickle, which could run any code when it is opened",
            "save its numbers by numpy.save",
        ),
    ),
    **dict.fromkeys(
        (".json", ".jsonl", ".ndjson"),
        ("a JSON file", f"pandas.read_json(FILE).{CSV[3:]}"),
    ),
    ".xml": ("an XML file", f"pandas.read_xml(FILE).{CSV[3:]}"),
    **dict.fromkeys(
        (".db", ".sqlite", ".sqlite3"),
        ("a database", f"pandas.read_sql('select * from NAME', CONNECTION).{CSV[3:]}"),
    ),
    ".arff": (
        "a file of Weka",
        f"pandas.DataFrame(scipy.io.arff.loadarff(FILE)[0]).{CSV[3:]}",
    ),
    **dict.fromkeys(
        (".fits", ".fit"),
        ("a FITS file", "numpy.save('data.npy', astropy.io.fits.getdata(FILE))"),
    ),
    **dict.fromkeys(
        (".nii", ".mgz"),
        ("a brain image", "numpy.save('data.npy', nibabel.load(FILE).get_fdata())"),
    ),
    ".dcm": (
        "a DICOM image",
        "numpy.save('data.npy', pydicom.dcmread(FILE).pixel_array)",
    ),
    **dict.fromkeys(
        (".wav", ".flac", ".mp3", ".ogg"),
        (
            "a sound",
            "cut it into windows of one length, and numpy.save an array (N, length)",
        ),
    ),
    **dict.fromkeys(
        (".mp4", ".avi", ".mov", ".mkv", ".webm"),
        ("a film", "save its frames as .png files in a folder"),
    ),
    **dict.fromkeys(
        (".tar", ".tgz", ".7z", ".rar"),
        ("an archive", "unpack it, and name what is inside"),
    ),
    **dict.fromkeys(
        (".mtx",),
        (
            "a sparse matrix",
            "scipy.sparse.save_npz('data.npz', scipy.io.mmread(FILE).tocsr())",
        ),
    ),
    ".loom": ("a loom file", "anndata.read_loom(FILE).write('data.h5ad')"),
    **dict.fromkeys(
        (".doc", ".docx", ".pdf", ".rtf"), ("a document", "save its table as .csv")
    ),
    **dict.fromkeys(
        PICTURES,
        (
            "an image of a kind that is not read",
            "save it as .png, in a folder of such images",
        ),
    ),
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
