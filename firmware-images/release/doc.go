// Package release makes the parts of a release that no packager makes: the
// licence texts of all that is linked in, the OCI image layout, and for each
// artefact a CycloneDX bill of materials and a provenance statement.
//
// All output is a function of the binaries, the version, the commit and one
// time stamp: the same input gives the same bytes on any machine with the same
// Go version. No clock, no random number and no host name goes into it.
package release
