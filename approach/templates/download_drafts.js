() => {
  const text = document.querySelector('#drafts [data-markdown]')?.dataset.markdown;
  if (!text) return;
  const url = URL.createObjectURL(new Blob([text], {type: 'text/markdown'}));
  Object.assign(document.createElement('a'), {href: url, download: 'drafts.md'}).click();
  URL.revokeObjectURL(url);
}
