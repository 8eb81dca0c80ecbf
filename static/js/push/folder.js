// A chosen or dropped folder as a list of its files, with their paths.

/** @typedef {{path: string, file: File}} Chosen */

/** @param {FileList} files Of an input with `webkitdirectory`. @returns {Chosen[]} */
export function listChosen(files) {
  return Array.from(files, (file) => ({ path: file.webkitRelativePath, file }));
}

/** Files of a dropped folder, or loose files as if they lay in one.
 * @param {DataTransfer} dropped @returns {Promise<Chosen[]>} */
export async function listDropped(dropped) {
  // The list is emptied when the event is over, so all entries are taken first.
  const entries = Array.from(dropped.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  /** @type {Chosen[]} */
  const found = [];
  const isLoose = entries.some((entry) => entry.isFile);
  for (const entry of entries) await collect(entry, isLoose ? `folder/${entry.name}` : entry.name, found);
  return found;
}

/** @param {FileSystemEntry} entry @param {string} path @param {Chosen[]} found */
async function collect(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => {
      /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject);
    });
    found.push({ path, file });
    return;
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  for (;;) {
    // Browsers give a hundred entries at a time.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return;
    for (const one of entries) await collect(one, `${path}/${one.name}`, found);
  }
}
