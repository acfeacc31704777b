// A button that copies, beside every piece of code. The page says everything without this script.
for (const pre of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "copied";
    } catch {
      // refused where the page is no file and has no https: select, for the keys that copy
      getSelection().selectAllChildren(pre);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
  const code = document.createElement("div");
  code.className = "code";
  pre.replaceWith(code);
  code.append(pre, button);
}
