// Puts the page together.

function themeButton() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => redraws.forEach((each) => each());
  document.getElementById("theme").addEventListener("click", () => {
    const now = getComputedStyle(document.documentElement).colorScheme;
    const isDark = now === "dark" || (now !== "light" && dark.matches);
    document.documentElement.style.colorScheme = isDark ? "light" : "dark";
    redraw();
  });
  dark.addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
}

function baselineChoice() {
  const select = document.getElementById("baseline");
  select?.addEventListener("change", () => document.querySelectorAll(".baseline").forEach((table, index) => {
    table.hidden = index !== select.selectedIndex;
  }));
}

function copyButtons() {
  for (const button of document.querySelectorAll(".copy")) {
    const code = button.parentElement.querySelector("code");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // pages that are not from a secure origin may not write to the clipboard
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

themeButton();
baselineChoice();
copyButtons();
const { arms } = await load();
accuracySection(arms);
matrixSection(arms);
forgettingSection(arms);
pairsSection(arms);
confusionSection(arms);
lossSection(arms);
document.body.dataset.ready = "";
