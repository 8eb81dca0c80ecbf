variable "project_id" {
  description = "Project of the service accounts."
  type        = string
}

variable "name" {
  description = "Prefix of the accounts, such as strongroom-prod. They have 30 characters in all."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,17}$", var.name))
    error_message = "name is 3 to 18 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "namespace" {
  description = "Namespace of the release in the cluster."
  type        = string
}

variable "release" {
  description = "Name of the Helm release. The service account of a component is called release-component."
  type        = string
}
