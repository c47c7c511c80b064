async () => {
  const text = document.querySelector('#drafts [data-markdown]')?.dataset.markdown;
  if (!text) return;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a browser gives no clipboard to a page over plain http
    const area = Object.assign(document.createElement('textarea'), {value: text});
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  document.querySelector('#drafts .status').textContent = 'Copied as Markdown.';
}
