/** The model's file in the origin's private file system: fetched when it isn't there, as on a first visit. */

/**
 * @param {{url: string, name: string}} model
 * @returns {Promise<FileSystemFileHandle>}
 */
export async function installedFile({url, name}) {
  const folder = await navigator.storage.getDirectory();
  const found = await folder.getFileHandle(name).catch(() => null);
  if (found) return found;
  const response = await fetch(url, {cache: "no-store"});
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  const handle = await folder.getFileHandle(name, {create: true});
  await response.body.pipeTo(await handle.createWritable());
  return handle;
}
