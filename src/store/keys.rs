//! Object keys (DESIGN.md, "The page server"). The only place that spells them.

use crate::model::{BaseId, BranchId, BranchName, BranchRef, Nonce, ProjectName};

/// Mutable: names the project's current base.
pub fn project_head(project: &ProjectName) -> String {
    format!("v1/project/{project}/head")
}

/// Everything of one base.
pub fn base(project: &ProjectName, base: &BaseId) -> String {
    format!("v1/project/{project}/base/{base}")
}

/// What a base consists of.
pub fn base_manifest(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/manifest", base(project, id))
}

/// Names, sizes and frame places of a base.
pub fn base_index(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/index", base(project, id))
}

/// The index before the private start; deleted once the base is sealed.
pub fn base_staged_index(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/staged-index", base(project, id))
}

/// One pack of a base.
pub fn base_pack(project: &ProjectName, id: &BaseId, number: u32) -> String {
    format!("{}/pack/{number:05}", base(project, id))
}

/// Heads of all branches of a project lie below.
pub fn branches(project: &ProjectName) -> String {
    format!("v1/project/{project}/branch")
}

/// Mutable: the branch's head.
pub fn branch_head(branch: &BranchRef) -> String {
    format!("{}/{}/head", branches(&branch.project), branch.branch.as_key())
}

/// The branch whose folder below [`branches`] is named `component`, where that is a name.
pub fn branch_of(project: &ProjectName, component: &str) -> Option<BranchRef> {
    let branch = BranchName::from_key(component).ok()?;
    Some(BranchRef { project: project.clone(), branch })
}

/// A branch's manifest.
pub fn manifest(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/manifest/{epoch:08}-{seq:08}-{nonce}")
}

/// A branch's layer.
pub fn layer(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/layer/{epoch:08}-{seq:08}-{nonce}")
}

/// The index of an image of a branch's own.
pub fn image_index(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/index/{epoch:08}-{seq:08}-{nonce}")
}

/// A pack of such an image.
pub fn image_pack(branch: &BranchId, epoch: u64, seq: u64, nonce: &Nonce) -> String {
    format!("v1/branch/{branch}/pack/{epoch:08}-{seq:08}-{nonce}")
}

/// The boot object that goes with a branch's manifest.
pub fn boot_of(manifest: &str) -> String {
    manifest.replacen("/manifest/", "/boot/", 1)
}

/// The boot object of a base.
pub fn base_boot(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/boot", base(project, id))
}

/// What was done to make a masked base, and how it was checked.
pub fn base_report(project: &ProjectName, id: &BaseId) -> String {
    format!("{}/report", base(project, id))
}

/// What the keys of all layers of one upload have in common and no others': their nonce.
pub fn upload_of(layer: &str) -> &str {
    layer.rsplit('-').next().unwrap_or(layer)
}

/// Where start-up probes write.
pub const PROBES: &str = "v1/probe";

/// What one probe writes; removed by it.
pub fn probe(nonce: &Nonce) -> String {
    format!("{PROBES}/{nonce}")
}

/// Heads, and everything of bases, lie below.
pub const PROJECTS: &str = "v1/project";

/// The branches' own objects lie below.
pub const BRANCHES: &str = "v1/branch";

/// Pins of all children lie below.
pub const PINS: &str = "v1/pin";

/// A child's pin on a branch's manifest; `None` where `manifest` is the key of none.
pub fn pin(manifest: &str, child: &BranchId) -> Option<String> {
    let Key::BranchObject { branch, kind: BranchObject::Manifest, epoch, seq, rest } = Key::parse(manifest) else {
        return None;
    };
    Some(format!("{PINS}/{branch}.{epoch:08}-{seq:08}-{rest}/{child}"))
}

/// Lists of condemned objects lie below.
pub const CONDEMNED: &str = "v1/gc/condemn";

/// What one pass of the collector condemned.
pub fn condemned(number: u64) -> String {
    format!("{CONDEMNED}/{number:08}")
}

/// Marks of condemn lists that nobody acts on any more lie below.
pub const RETIRED: &str = "v1/gc/retired";

/// Says that the collector begins nothing more with a condemn list.
pub fn retired(number: u64) -> String {
    format!("{RETIRED}/{number:08}")
}

/// Number of a condemn list, or of the mark that retires one.
pub fn condemn_number(key: &str) -> Option<u64> {
    key.strip_prefix(CONDEMNED).or_else(|| key.strip_prefix(RETIRED))?.strip_prefix('/')?.parse().ok()
}

/// Where the collector asks the store for its time.
pub const CLOCKS: &str = "v1/gc/clock";

/// One such question; removed by who asks.
pub fn clock(nonce: &Nonce) -> String {
    format!("{CLOCKS}/{nonce}")
}

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    ProjectHead(ProjectName),
    BranchHead(BranchRef),
    BaseObject {
        project: ProjectName,
        base: BaseId,
        /// The rest of the key: `manifest`, `pack/00000`.
        part: String,
    },
    BranchObject {
        branch: BranchId,
        kind: BranchObject,
        epoch: u64,
        seq: u64,
        /// The nonce, and what may stand behind it.
        rest: String,
    },
    Pin {
        child: BranchId,
    },
    Condemned,
    /// What a start-up probe or a collector left when it was killed.
    Scratch,
    /// Nothing that this version knows.
    Unknown,
}

/// What a branch's own objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchObject {
    Manifest,
    Layer,
    Boot,
    ImageIndex,
    ImagePack,
}

impl Key {
    /// What `key` names.
    pub fn parse(key: &str) -> Key {
        Self::parse_parts(&key.split('/').collect::<Vec<_>>()).unwrap_or(Key::Unknown)
    }

    fn parse_parts(parts: &[&str]) -> Option<Key> {
        match parts {
            ["v1", "project", project, "head"] => Some(Key::ProjectHead(project.parse().ok()?)),
            ["v1", "project", project, "branch", name, "head"] => {
                let project = project.parse().ok()?;
                Some(Key::BranchHead(BranchRef { project, branch: BranchName::from_key(name).ok()? }))
            }
            ["v1", "project", project, "base", base, part @ ..] if !part.is_empty() => Some(Key::BaseObject {
                project: project.parse().ok()?,
                base: BaseId::from(*base),
                part: part.join("/"),
            }),
            ["v1", "branch", branch, kind, name] => {
                let kind = match *kind {
                    "manifest" => BranchObject::Manifest,
                    "layer" => BranchObject::Layer,
                    "boot" => BranchObject::Boot,
                    "index" => BranchObject::ImageIndex,
                    "pack" => BranchObject::ImagePack,
                    _ => return None,
                };
                let mut name = name.splitn(3, '-');
                let (epoch, seq) = (name.next()?.parse().ok()?, name.next()?.parse().ok()?);
                Some(Key::BranchObject {
                    branch: BranchId::from(*branch),
                    kind,
                    epoch,
                    seq,
                    rest: name.next()?.to_owned(),
                })
            }
            ["v1", "pin", _, child] => Some(Key::Pin { child: BranchId::from(*child) }),
            ["v1", "gc", "condemn" | "retired", _] => Some(Key::Condemned),
            ["v1", "gc", "clock", _] | ["v1", "probe", _] => Some(Key::Scratch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_again() {
        let project: ProjectName = "shop".parse().expect("a name");
        let branch: BranchRef = "shop@a/b".parse().expect("a name");
        let (base, id, nonce) = (BaseId::from("b"), BranchId::from("i"), Nonce::from("n"));
        assert_eq!(Key::parse(&project_head(&project)), Key::ProjectHead(project.clone()));
        assert_eq!(Key::parse(&branch_head(&branch)), Key::BranchHead(branch));
        let part = |part: &str| Key::BaseObject { project: project.clone(), base: base.clone(), part: part.to_owned() };
        assert_eq!(Key::parse(&base_manifest(&project, &base)), part("manifest"));
        assert_eq!(Key::parse(&base_pack(&project, &base, 7)), part("pack/00007"));
        let object =
            |kind| Key::BranchObject { branch: id.clone(), kind, epoch: 123_456_789, seq: 3, rest: "n".to_owned() };
        let manifest = manifest(&id, 123_456_789, 3, &nonce);
        assert_eq!(Key::parse(&manifest), object(BranchObject::Manifest));
        assert_eq!(Key::parse(&layer(&id, 123_456_789, 3, &nonce)), object(BranchObject::Layer));
        assert_eq!(Key::parse(&image_index(&id, 123_456_789, 3, &nonce)), object(BranchObject::ImageIndex));
        assert_eq!(Key::parse(&image_pack(&id, 123_456_789, 3, &nonce)), object(BranchObject::ImagePack));
        let pin = pin(&manifest, &BranchId::from("c")).expect("of a manifest");
        assert_eq!(pin, "v1/pin/i.123456789-00000003-n/c");
        assert_eq!(Key::parse(&pin), Key::Pin { child: BranchId::from("c") });
        assert_eq!(condemn_number(&condemned(12)), Some(12));
        assert_eq!(condemn_number(&retired(12)), Some(12));
        assert_eq!(Key::parse(&condemned(1)), Key::Condemned);
        assert_eq!(Key::parse(&clock(&nonce)), Key::Scratch);
        assert_eq!(Key::parse(&probe(&nonce)), Key::Scratch);
        assert_eq!(Key::parse("v1/branch/i/layer/what"), Key::Unknown);
    }
}
